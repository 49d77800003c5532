"""`--set openpose.threshold=`: what is believed no more than that is neither drawn nor kept, in every variant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.openpose_crowds import Crowd
from support.openpose_parts import Tints, as_batch, photo
from support.shelf import Shelf
from torch import Tensor
from torch.nn import Identity

from condprep import load_annotator
from condprep.annotators.openpose import load as openpose
from condprep.annotators.openpose.annotator import Openpose
from condprep.annotators.openpose.blaze import annotator as annotator_module
from condprep.annotators.openpose.blaze.annotator import Blaze
from condprep.annotators.openpose.blaze.detector import Boxes
from condprep.annotators.openpose.draw import draw_poses
from condprep.annotators.openpose.keypoints import Pose, column_value
from condprep.annotators.openpose.load import OpenposeParams
from condprep.errors import AnnotatorError
from condprep.weights.find import WeightFile

LEAST = 0.6
SIZE = (200, 240)
Made = tuple[Any, Tensor]


def cmu(parts: str) -> Callable[[float | None], Made]:
    """Openpose that sees two people whatever the picture, with these of their parts."""

    def make(threshold: float | None) -> Made:
        hand = Tints(22) if "hand" in parts else None
        face = Tints(71, seed=1) if "face" in parts else None
        annotator = Openpose(Crowd(3, 2, *SIZE), hand=hand, face=face, device="cpu", threshold=threshold)
        return annotator, as_batch(photo(*SIZE))

    return make


def blaze(threshold: float | None) -> Made:
    """blaze whose networks see one person whatever the picture, believed from 0 to 1."""
    places = np.random.default_rng(0).uniform(20, 180, (1, 17, 2))
    seen = np.concatenate([places, np.linspace(0, 1, 17)[None, :, None]], 2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(annotator_module, "load_network", lambda *_, **__: Identity())
        annotator = Blaze([WeightFile("any", Path(), "abc", pinned=True)] * 4, device="cpu", threshold=threshold)
    annotator._detector = lambda rgb: Boxes(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 2, 2)))  # type: ignore[assignment]
    annotator._landmarker = lambda rgb, looked: seen  # type: ignore[assignment]
    return annotator, as_batch(photo(*SIZE))


def points(people: list[Pose]) -> np.ndarray:
    """All points (N, 3) that are there."""
    every = np.concatenate([part for person in people for part in person if part is not None])
    return every[every.any(1)]


@pytest.mark.parametrize("make", [cmu(""), cmu("hand"), cmu("face"), cmu("hand face"), blaze])
def test_what_is_not_believed_is_missing(make: Callable[[float | None], Made]) -> None:
    """What stays is believed more than the threshold, and lies where it lay; the rest is gone, from map and column."""
    annotator, rgb = make(LEAST)
    ((before, *size),) = make(None)[0].see(rgb).found
    ((after, *_),) = annotator.see(rgb).found
    kept, every = points(after), points(before)
    assert 0 < len(kept) < len(every)
    assert (kept[:, 2] > LEAST).all()
    assert {*map(tuple, kept.tolist())} <= {*map(tuple, every.tolist())}
    result = annotator(rgb, [""])
    assert np.array_equal(result.maps[0].permute(1, 2, 0).numpy(), draw_poses(after, *size))
    assert result.columns["keypoints"] == [column_value(after)]


@pytest.mark.parametrize("make", [cmu("hand face"), blaze])
def test_who_has_no_joint_left_is_nobody(make: Callable[[float | None], Made]) -> None:
    """A threshold above all confidences gives a black map and an empty list."""
    annotator, rgb = make(1.0)
    result = annotator(rgb, [""])
    assert not result.maps.any()
    assert result.columns["keypoints"] == [{"people": []}]


def test_a_threshold_is_recorded_where_it_was_set(monkeypatch) -> None:
    """Provenance has it among the parameters, in both kinds of variants; without it they are what they were."""
    assert blaze(None)[0].provenance["parameters"] == {}
    assert blaze(0.5)[0].provenance["parameters"] == {"threshold": 0.5}
    monkeypatch.setattr("condprep.annotators.openpose.network.load_network", lambda _: Crowd(3, 2, *SIZE))
    shelf = Shelf(WeightFile("body_pose_model.pth", Path(), "abc", pinned=True))
    annotator = openpose.load("cmu", OpenposeParams(threshold="0.3"), device="cpu", weights=shelf)
    assert annotator.provenance["parameters"] == {"precision": "fp32", "threshold": 0.3}


@pytest.mark.parametrize("threshold", [-0.1, 1.5, "much", "nan"])
def test_a_threshold_is_a_confidence(threshold: object) -> None:
    """From 0 to 1; anything else is refused by the name that the user gave."""
    with pytest.raises(AnnotatorError, match=r"openpose\.threshold = "):
        load_annotator("openpose:blaze", params={"threshold": threshold})
