"""Do drawn people lie on those in the picture?

In: an opened pair whose map is of poses. Out: where people are drawn, where a network sees them, and how far apart.
Called by the checks of alignment.
"""
