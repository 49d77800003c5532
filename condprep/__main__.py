"""`python -m condprep`, the same as `condprep`."""

from condprep.cli import main

main()
