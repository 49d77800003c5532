"""openpose:movenet: MoveNet in plain PyTorch, read from the TensorFlow.js files of an npm package.

In and out as of every annotator, with `keypoints`. Loaded by openpose's `load`; nothing else is for others.
"""
