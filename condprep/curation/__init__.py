"""A dataset without the rows that training is better without, and with repaired ones.

In: a dataset and what `verify` finds in it. Out: another dataset, and its rejects. Called by the command line and as
`condprep.curate`.
"""
