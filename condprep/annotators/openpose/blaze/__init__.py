"""openpose:blaze: BlazePose in plain PyTorch, read from the TensorFlow Lite files of mediapipe's wheel.

In and out as of every annotator, with `keypoints`. Loaded by openpose's `load`; verification knows its joints' spread.
"""
