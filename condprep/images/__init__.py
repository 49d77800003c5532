"""One picture: bytes -> RGB -> the size that is trained -> bytes.

In: encoded bytes, a geometry. Out: (H, W, 3) uint8 RGB pixels, their `transform`, encoded bytes; Rejected for what is
no picture. Called by every room that works on pixels, and by the trainer: nothing else opens pictures.
"""
