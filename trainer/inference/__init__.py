"""Using what was trained: the exported folder, a pipeline of diffusers, generated pictures.

In: a run's folder, a condition, a prompt. Out: a ControlNet's folder with its card, pictures. Called as
`trainer.load_pipeline` and `trainer.sample`, and by evaluation and training.
"""
