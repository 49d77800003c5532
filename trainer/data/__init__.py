"""A batch's way: rows -> scan -> transform -> cache -> sampler -> loader; a Split holds what belongs to one split.
Rows that are streamed take another way to the same batches: order -> stream -> transform -> encoded -> loader.

In: a recipe, and a Base that encodes. Out: batches, the same ones in the same order for every number of processes, from
any update on. Called by evaluation and training.
"""
