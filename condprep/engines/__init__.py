"""Who runs the shard jobs: where, when, and how many at once.

In: a builder and the numbers of shards. Out: the shards, built and committed, and their counts.
Called by building. An engine knows nothing of pictures: what a shard is, its builder knows.
"""
