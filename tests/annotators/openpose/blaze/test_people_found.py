"""openpose:blaze with the published networks: who is found in photographs, and that nobody is where nobody is."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from skimage import data
from support.movenet_models import models
from torch import Tensor

from bench.pose_quality import coco_result, load
from condprep.annotators.openpose.blaze.annotator import Blaze
from condprep.annotators.openpose.draw import draw_bodies
from condprep.annotators.openpose.keypoints import JOINTS, Body, bodies
from condprep.images.encode import encode_picture
from condprep.types import Maps

KNEES_AND_ANKLES = [JOINTS.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("knee", "ankle")]


@pytest.fixture(scope="module")
def blaze() -> Blaze:
    return Blaze(models(), device="cpu")


def photograph(pixels: np.ndarray) -> Tensor:
    """(1, 3, H, W)."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def found(result: Maps) -> list[list[Body]]:
    return [bodies(value) for value in result.columns["keypoints"]]


def test_the_astronaut_is_found(blaze: Blaze) -> None:
    """The eyes and the nose of scikit-image's are where a person sees them, within 10 of 512 pixels; no leg is drawn, for
    none is in the picture; and the map is the drawing of the column.
    """
    result = blaze(photograph(data.astronaut()), [""])
    [[body]] = found(result)
    for name, place in {"right_eye": (200, 104), "left_eye": (246, 107), "nose": (223, 126)}.items():
        assert np.hypot(*(body[JOINTS.index(name), :2] - place)) < 10
    assert not body[KNEES_AND_ANKLES].any()
    assert np.array_equal(result.maps[0].permute(1, 2, 0).numpy(), draw_bodies([body], 512, 512))


def test_nobody_is_found_where_nobody_is(blaze: Blaze) -> None:
    """A cat, and black and white, one pixel high: a black map and an empty list."""
    for rgb in (
        photograph(data.chelsea()),
        torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).repeat(1, 3, 1, 700),
    ):
        result = blaze(rgb, [""] * len(rgb))
        assert not result.maps.any()
        assert result.columns["keypoints"] == [{"people": []}] * len(rgb)


def test_a_tripod_is_nobody(blaze: Blaze) -> None:
    """Of scikit-image's cameraman, as a build stores him, he alone is found: the foot of his tripod looks a little like a person."""
    stored = io.BytesIO(encode_picture(np.repeat(data.camera()[..., None], 3, 2)))
    [people] = found(blaze(photograph(np.array(Image.open(stored))), [""]))
    assert len(people) == 1


@pytest.mark.slow
def test_people_of_coco_are_found(blaze: Blaze, shared: Path) -> None:
    """Of the 12 annotated people of four COCO pictures: an average precision of 0.6 and more, and hardly anybody else."""
    folder = shared / "data" / "people"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "test_coco.json"))
        pictures = truth.loadImgs(truth.getImgIds())
        people = {one["id"]: found(blaze(load(folder / one["file_name"]), [""]))[0] for one in pictures}
        told = [coco_result(body, picture, truth) for picture, seen in people.items() for body in seen]
        scores = COCOeval(truth, truth.loadRes(told), "keypoints")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    assert scores.stats[0] >= 0.6
    assert len(told) <= 13
