"""Condition maps without a dataset of condprep's: at inference time, in a notebook, inside other pipelines.

In: pictures (files, bytes, PIL, arrays) and the names of annotators, or a dataset whose annotators are repeated. Out:
`Annotated` or `Reject` for each, or rows, batches and files of them. Called as `condprep.Session`, `condprep.annotate`,
`condprep.as_map` and `condprep.RayAnnotator` by users, by `condprep annotate`, and by curation, which repeats a dataset's.
"""
