"""The page of a ControlNet: drop a photograph, see its condition, and pictures with the ControlNet beside those of its base.

In: a run's folder, and what a browser sends. Out: a page and pictures, from memory alone; nothing is written. Called as
`python -m trainer app`, by `trainer.cli.app`.
"""
