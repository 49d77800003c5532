"""depth and normal: MiDaS (DPT-hybrid), or a depth model of transformers.

In and out as of every annotator; raw depth as a further column where it is asked for. Loaded by the registry.
"""
