"""`python -m trainer`; several GPUs: `accelerate launch -m trainer RECIPE`."""

from trainer.cli.main import main

main()
