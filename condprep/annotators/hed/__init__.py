"""hed, hed:safe, hed:scribble: soft edges of a network that looks at five scales.

In and out as of every annotator. Loaded by the registry.
"""
