"""`python -m condprep`, the same as `condprep`."""

from condprep.cli.main import main

main()
