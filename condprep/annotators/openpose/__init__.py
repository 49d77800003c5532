"""openpose: people found by the CMU networks, or by others, and drawn as ControlNet was trained on them.

In and out as of every annotator, with `keypoints` in the OpenPose JSON layout. `load` is called by the registry;
`keypoints` and `draw` also by those who read, mirror or check poses.
"""
