"""From a recipe to a trained ControlNet: prepare, then the loop of steps, validations and checkpoints, then the result.

In: a Recipe. Out: a run's folder, as `trainer/recipe/layout.py` says. Called as `trainer.train`, and by the command line,
which also asks for the plan.
"""
