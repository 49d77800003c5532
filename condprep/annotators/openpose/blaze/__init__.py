"""openpose:blaze: MoveNet in plain PyTorch, read from the TensorFlow.js files of an npm package.

The name is older than the networks: BlazePose's found the people before. In and out as of every annotator, with
`keypoints`. Loaded by openpose's `load`; nothing else is for others.
"""
