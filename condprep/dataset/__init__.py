"""The dataset on disk: its columns, its folders, shards that are written exactly once, reading it back.

In: finished rows. Out: what `datasets` loads, and the rows again, one at a time. Written by building and curation, read
by verification, curation, reporting, the command line and the trainer.
"""
