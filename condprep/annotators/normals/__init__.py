"""normalbae: surface normals of a network, in batches.

In and out as of every annotator. Loaded by the registry.
"""
