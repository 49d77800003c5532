"""ControlNets of poses are tried by their people, wherever these are in a picture."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from support.built_in import among_built_in
from support.painters import HOW, follower

from condprep.annotators.openpose.keypoints import KEYPOINTS, Pose, column_value
from condprep.annotators.registry import load_annotator
from condprep.images.geometry import Placement
from condprep.types import Maps
from trainer.evaluation.examples import Example, _placed
from trainer.evaluation.reannotator import Reannotator
from trainer.evaluation.trial import Trial


class Posed:
    """An annotator that finds one person, as far to the right as the first pixel is red."""

    name, variant, device, batch_size, binary = "posed", "", "cpu", 4, False
    columns: ClassVar[Any] = {"keypoints": KEYPOINTS}
    provenance: ClassVar[Any] = {"parameters": {}, "weights": {}, "licence": "", "commercial": True}

    def __call__(self, rgb: torch.Tensor, keys: list[str]) -> Maps:
        people = [column_value([Pose(standing(int(picture[0, 0, 0])))]) for picture in rgb]
        return Maps(torch.zeros_like(rgb), {"keypoints": people})


def standing(right: float) -> Any:
    """A body of 18 points, 30 px high."""
    points = np.array([(right + n % 3 * 5, 10 + n * 30 / 17, 0.8) for n in range(18)])
    return points.astype(np.float32)


def test_poses_are_tried_by_their_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keypoints, not pixels, decide: OKS, PCK and AP are 1 for a ControlNet that follows, and AP is 0 at chance."""
    among_built_in(monkeypatch, Posed())
    some = [
        Example(
            str(n), "", np.full((64, 64, 3), 40 * n, np.uint8), np.full((64, 64, 3), n, np.uint8), [standing(40 * n)]
        )
        for n in range(1, 5)
    ]
    trial = Trial(follower(some), Reannotator(load_annotator("posed")), "pose", HOW)
    own = trial.generated("controlnet", some)
    found, chance = trial.summary(own), trial.summary(*trial.other_maps("other map", own))
    assert [found[name].mean for name in ("oks", "pck", "ap")] == pytest.approx([1, 1, 1])
    assert chance["oks"].mean < 0.1
    assert chance["ap"].mean == 0


def test_people_move_with_their_picture() -> None:
    """Keypoints of a stored picture that is cropped and halved are where the limbs are then; missing ones stay 0, 0, 0."""
    body = standing(40)
    body[3] = 0
    moved = _placed(body, Placement((0, 32, 128, 64), (64, 32), (64, 32)))
    assert moved[0].tolist() == pytest.approx([(body[0, 0] - 32) / 2, body[0, 1] / 2, 0.8])
    assert moved[3].tolist() == [0, 0, 0]
