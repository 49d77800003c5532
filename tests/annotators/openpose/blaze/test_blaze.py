"""openpose:blaze as a whole: people are found on pictures of any size, and a result does not depend on the batch."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from support.blaze_models import models
from torch import Tensor

from condprep import load_annotator
from condprep.annotators.openpose.blaze import poses
from condprep.annotators.openpose.blaze.annotator import Blaze
from condprep.annotators.openpose.draw import draw_bodies
from condprep.annotators.openpose.keypoints import JOINTS, Body, bodies
from condprep.errors import AnnotatorError


@pytest.fixture(scope="module")
def blaze() -> Blaze:
    return Blaze(*models(), device="cpu", tiles=2)


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """An astronaut, a cameraman and a cat, (3, 3, 384, 384)."""
    pictures = [data.astronaut(), np.stack([data.camera()] * 3, -1), data.chelsea()]
    resized = [cv2.resize(one, (384, 384), interpolation=cv2.INTER_AREA) for one in pictures]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


@pytest.mark.slow
def test_a_result_does_not_depend_on_the_batch(blaze: Blaze, photographs: Tensor) -> None:
    """Alone, in a batch, in another order, or after pictures of another size: the same bits."""
    batch = blaze.detect(photographs)
    assert [len(people) for people in batch] == [1, 1, 0]
    blaze.detect(photographs[:, :, :100, :333])
    for order in ([0], [1], [2], [1, 0, 2, 0]):
        again = blaze.detect(photographs[order])
        for i, people in zip(order, again, strict=True):
            assert np.array_equal(people, batch[i])


def test_the_astronaut_is_found(blaze: Blaze) -> None:
    """The eyes and the nose of scikit-image's astronaut are where a person sees them, within 15 of 512 pixels."""
    ((body,),) = blaze.detect(torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None])
    for name, place in {"right_eye": (200, 104), "left_eye": (246, 107), "nose": (223, 126)}.items():
        joint = body[JOINTS.index(name)]
        assert np.hypot(*(joint[:2] - place)) < 15
        assert joint[2] > 0.9


def test_the_map_is_the_drawing_of_the_column(blaze: Blaze, photographs: Tensor) -> None:
    """Maps (B, 3, H, W) uint8 are what the column's bodies look like; nobody is black and an empty list."""
    result = blaze(photographs, ["", "", ""])
    assert result.maps.dtype == torch.uint8
    assert result.maps.shape == photographs.shape
    for drawn, value in zip(result.maps, result.columns["keypoints"], strict=True):
        assert np.array_equal(drawn.permute(1, 2, 0).numpy(), draw_bodies(bodies(value), 384, 384))
    assert result.columns["keypoints"][2] == {"people": []}
    assert not result.maps[2].any()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 700), (500, 2)])
def test_any_size_is_taken(blaze: Blaze, size: tuple[int, int]) -> None:
    """Tiny and thin pictures of one colour, black and white, give a black map of their size and nobody."""
    levels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    result = blaze(levels.repeat(1, 3, *size), ["", ""])
    assert result.maps.shape == (2, 3, *size)
    assert not result.maps.any()
    assert result.columns["keypoints"] == [{"people": []}] * 2


def test_it_is_loaded_by_name() -> None:
    """openpose:blaze with a parameter comes from the table of annotators and says what it is."""
    models()
    annotator = load_annotator("openpose:blaze", params={"tiles": 0})
    assert (annotator.name, annotator.variant, annotator.device, annotator.binary) == (
        "openpose",
        "blaze",
        "cpu",
        False,
    )
    assert annotator.provenance["parameters"] == {"tiles": 0}
    assert annotator.provenance["weights"] == {file.name: file.sha256 for file in models()}
    with pytest.raises(AnnotatorError, match="tiles"):
        load_annotator("openpose:blaze", params={"tiles": 4})


@pytest.mark.slow
def test_people_of_coco_are_found(blaze: Blaze, shared: Path) -> None:
    """Of the 12 annotated people of four COCO pictures most are found (OKS of 0.5 and more), nobody twice."""
    folder = shared / "data" / "people"
    truth = json.loads((folder / "test_coco.json").read_text())
    matched = found = 0
    for image in truth["images"]:
        pixels = cv2.cvtColor(cv2.imread(str(folder / image["file_name"])), cv2.COLOR_BGR2RGB)
        (people,) = blaze.detect(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        annotated = [a for a in truth["annotations"] if a["image_id"] == image["id"] and a["num_keypoints"]]
        best = [max(range(len(annotated)), key=lambda i: oks(person, annotated[i])) for person in people]
        right = {i for i, person in zip(best, people, strict=True) if oks(person, annotated[i]) >= 0.5}
        matched, found = matched + len(right), found + len(people)
    assert matched >= 10
    assert found <= 13


def oks(person: Body, annotation: dict[str, object]) -> float:
    """COCO's similarity of a body with an annotation; a missing joint counts as wrong."""
    truth = np.array(annotation["keypoints"], float).reshape(17, 3)
    which = [JOINTS.index(name) for name in COCO_JOINTS]
    distance = ((person[which, :2] - truth[:, :2]) ** 2).sum(1)
    alike = np.exp(-distance / (2 * annotation["area"] * (2 * poses.SIGMAS[which]) ** 2))
    return float(alike[truth[:, 2] > 0].mean())


COCO_JOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee"),
    *("left_ankle", "right_ankle"),
)
