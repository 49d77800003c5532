"""From a recipe to a trained ControlNet: prepare, loop, step, validate, checkpoint.

In: a Recipe. Out: a run's folder: checkpoints, metrics, pictures, the ControlNet. Called as `trainer.train`.
"""
