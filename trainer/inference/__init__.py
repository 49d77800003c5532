"""Using what was trained: the exported folder, a diffusers pipeline, a picture.

In: a run's folder, a condition, a prompt. Out: a ControlNet's folder, pictures. Called as `trainer.load_pipeline`,
`trainer.sample`, and by evaluation and training.
"""
