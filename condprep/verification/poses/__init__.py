"""Do drawn people lie on those in the picture?

In: a map of poses, and the joints that a network finds in its picture. Out: where people are drawn, and how far apart the two
are, as an Alignment. Called by `verification.reannotate`.
"""
