"""A batch's way: rows -> scan -> sizes -> cache -> sampler -> loader.

In: a dataset's path and the recipe. Out: batches, the same ones in the same order for every number of processes, from
any update on. Called by training and evaluation.
"""
