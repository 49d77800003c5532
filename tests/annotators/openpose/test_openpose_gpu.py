"""openpose on a device: the CPU's people, with hands and faces too, in half precision, and no memory that grows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.device import DEVICE, ON_CUDA, held, on_device
from support.openpose_crowds import Crowd
from support.openpose_dm14 import DM14, FOLDER, HEIGHT, PEOPLE
from support.openpose_parts import Tints, as_batch, photo

from condprep.annotators.openpose.annotator import Openpose

pytestmark = on_device
BATCHES = 100 if ON_CUDA else 12


def full(device: str) -> Openpose:
    """Two people whatever the picture, with hands and faces that depend on its colours."""
    return Openpose(Crowd(3, 2, 200, 240), hand=Tints(22), face=Tints(71, seed=1), device=device, precision="fp32")


def test_people_are_those_of_the_cpu() -> None:
    """The same bodies; of hands and faces nine points of ten are at most two pixels away: their input may be a level off."""
    rgb = as_batch(photo(200, 240), photo(200, 240)[:, ::-1].copy())
    expected, found = full("cpu").find(rgb), full(DEVICE).find(rgb.to(DEVICE))
    moved = []
    for theirs, ours in zip(expected, found, strict=True):
        for a, b in zip(theirs, ours, strict=True):
            assert np.abs(a.body - b.body).max() <= 1e-4
            moved += [np.abs(x - y)[:, :2].max(1) for x, y in zip(a[1:], b[1:])]
    assert (np.concatenate(moved) <= 2).mean() >= 0.9


@pytest.mark.skipif(
    not (FOLDER.is_dir() and PEOPLE.is_dir()), reason=f"no network and pictures in {FOLDER} and {PEOPLE}"
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_people_are_those_of_the_cpu(precision: str) -> None:
    """As many as on the CPU in float32, and nine joints of ten are at most a pixel away."""
    annotators = [
        Openpose(DM14(), device="cpu", height=HEIGHT),
        Openpose(DM14(), device=DEVICE, height=HEIGHT, precision=precision),
    ]
    near = []
    for path in sorted(PEOPLE.glob("*.jpg")):
        rgb = as_batch(np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1]))
        (theirs,), (ours,) = (annotator.find(rgb.to(annotator.device)) for annotator in annotators)
        assert len(ours) == len(theirs)
        for pose in theirs:
            nearest = min((np.abs(one.body - pose.body)[:, :2].max(1) for one in ours), key=np.mean)
            near.append(nearest <= 1)
    assert np.concatenate(near).mean() >= 0.9


def test_device_memory_does_not_grow() -> None:
    """After 100 batches the device holds what it held after ten."""
    annotator, rgb = full(DEVICE), as_batch(photo(200, 240), photo(200, 240)).to(DEVICE)
    before = 0
    for number in range(BATCHES):
        annotator(rgb.roll(number, 3), ["", ""])
        before = held() if number == 9 else before
    assert held() <= before
