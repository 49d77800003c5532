"""A dataset without the rows that training is better without, and with repaired ones.

In: a dataset and what `verify` found in it. Out: another dataset, and its rejects. Called as `condprep.curate`.
"""
