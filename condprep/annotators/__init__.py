"""What draws condition maps, in batches of equal size.

In: (B, 3, H, W) uint8 RGB and the pictures' keys. Out: Maps, (B, C, H, W) uint8 of the same size, with further columns.
Loaded by name through `registry.load_annotator`, or as a dataset recorded it through `recorded`; run through `runner` by
building, verification, curation, annotation and the trainer's evaluation.
"""
