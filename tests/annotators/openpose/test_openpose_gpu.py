"""openpose:full on a CUDA device: the CPU's people, and no memory that grows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.openpose_crowds import Crowd
from support.openpose_parts import Tints, as_batch, photo

from condprep.annotators.openpose.annotator import Openpose

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def full(device: str) -> Openpose:
    """Two people whatever the picture, with hands and faces that depend on its colours."""
    return Openpose(Crowd(3, 2, 200, 240), hand=Tints(22), face=Tints(71, seed=1), device=device, precision="fp32")


def test_people_are_those_of_the_cpu() -> None:
    """The same bodies; of hands and faces nine points of ten are at most two pixels away: their input may be a level off."""
    rgb = as_batch(photo(200, 240), photo(200, 240)[:, ::-1].copy())
    expected, found = full("cpu").detect(rgb), full("cuda").detect(rgb.cuda())
    moved = []
    for theirs, ours in zip(expected, found, strict=True):
        for a, b in zip(theirs, ours, strict=True):
            assert np.abs(a.body - b.body).max() <= 1e-4
            moved += [np.abs(x - y)[:, :2].max(1) for x, y in zip(a[1:], b[1:])]
    assert (np.concatenate(moved) <= 2).mean() >= 0.9


def test_device_memory_does_not_grow() -> None:
    """After 100 batches the device holds what it held after ten."""
    annotator, rgb = full("cuda"), as_batch(photo(200, 240), photo(200, 240)).cuda()
    held = []
    for number in range(100):
        annotator(rgb.roll(number, 3))
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[9]
