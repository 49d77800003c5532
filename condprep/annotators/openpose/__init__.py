"""OpenPose: bodies found by the CMU network and drawn as ControlNet was trained on them."""
