"""Does a ControlNet follow its condition? Pictures are generated, annotated again, and compared map with map.

In: a pipeline and rows of a dataset, or a run's folder; never the learner. Out: scores of the right map, another's and the
base's, a diagnosis, a page. Called as `trainer.evaluate`, and by training's validations.
"""
