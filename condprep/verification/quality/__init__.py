"""What training is better without: bad captions, duplicates, lookalikes, blur.

In: an opened pair, or the scores of all. Out: measures and rules of the group `curation`.
Called through the table of `verification.groups`; the trainer measures generated pictures with `picture`.
"""
