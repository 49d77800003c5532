"""openpose:dwpose: people found by YOLOX, their 133 points by RTMPose, drawn as OpenPose's.

In and out as of every annotator. `annotator` is loaded by openpose's own `load`; nothing else is for others.
"""
