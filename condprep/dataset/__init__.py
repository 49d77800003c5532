"""The dataset on disk: its folders, shards that are written exactly once, reading it back.

In: finished rows. Out: what `datasets` loads, and the rows again, one at a time. Called by building (writes), by
verification, curation, reporting and the trainer (read).
"""
