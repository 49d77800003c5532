"""Any dataset of pairs, whoever made it: Arrow, Parquet, a listing, two folders, a name on the Hub.

In: a path, by `open.open_pairs`. Out: Pairs: a picture, its map and its caption by row number, undecoded.
Called by building (import), verification, curation, reporting and the trainer.
"""
