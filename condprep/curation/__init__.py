"""A dataset without the rows that training is better without, with repaired ones, and with held-out ones.

In: a dataset and what `verify` finds in it. Out: another dataset, and its rejects. Called by the command line and as
`condprep.curate` and `condprep.split`.
"""
