"""openpose:blaze around small networks that see people in anything: pictures of any size, batches, and where it looks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from skimage import data
from support.movenet_models import write
from support.waits import Waits
from torch import Tensor

from condprep import load_annotator
from condprep.annotators.openpose.blaze import detector, landmarks
from condprep.annotators.openpose.blaze.annotator import AROUND, MARGIN, Blaze, regions, upright
from condprep.annotators.openpose.blaze.detector import Boxes
from condprep.annotators.openpose.keypoints import JOINTS, Body, bodies
from condprep.annotators.openpose.load import BLAZE
from condprep.annotators.protocol import Annotator
from condprep.errors import AnnotatorError
from condprep.types import Maps
from condprep.weights.find import Weights

SMALL = 0.1  # of a MobileNetV2's channels
KNEES_AND_ANKLES = [JOINTS.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("knee", "ankle")]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weights]:
    """Weights of small networks with random numbers, which see several people in anything."""
    folder = tmp_path_factory.mktemp("blaze")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(detector, "PEOPLE", 3)
        for network, name in ((detector, "movenet-multipose"), (landmarks, "movenet-thunder")):
            patched.setattr(network, "WIDTH", SMALL)
            write(folder, name, width=SMALL, heads=network.HEADS, bias=1)
        yield Weights(folder, offline=True, say=lambda _: None)


@pytest.fixture(scope="module")
def crowds(small: Weights) -> Annotator:
    return load_annotator("openpose:blaze", device="cpu", weights=small)


def photograph(pixels: np.ndarray) -> Tensor:
    """(1, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]


def found(result: Maps) -> list[list[Body]]:
    return [bodies(value) for value in result.columns["keypoints"]]


def test_a_result_does_not_depend_on_the_batch(crowds: Annotator) -> None:
    """Alone, in a batch of three, of eight, or in another order: the same bits, of pictures of a size off the grid."""
    rgb = torch.randint(0, 256, (8, 3, 37, 61), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = found(crowds(rgb, [""] * 8))
    assert all(together)
    for rows in ([3], [4, 0, 7]):
        for row, people in zip(rows, found(crowds(rgb[rows], [""] * len(rows))), strict=True):
            assert np.array_equal(people, together[row])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (500, 2)])
def test_whoever_is_seen_stays_in_the_picture(crowds: Annotator, size: tuple[int, int]) -> None:
    """In pictures of one pixel, one pixel high or two wide, too: the map has their size, and no joint lies outside."""
    result = crowds(torch.full((1, 3, *size), 128, dtype=torch.uint8), [""])
    assert result.maps.shape == (1, 3, *size)
    [people] = found(result)
    joints = np.concatenate([*people, np.zeros((1, 3))])[:, :2]
    assert (joints >= -0.5).all()
    assert (joints < (size[1] - 0.5, size[0] - 0.5)).all()


@pytest.mark.parametrize("pictures", [1, 4])
def test_people_are_found_in_two_waits(crowds: Annotator, pictures: int) -> None:
    """The host waits for boxes and for joints, once each, however many pictures and people a batch has."""
    rgb = torch.zeros(pictures, 3, 40, 60, dtype=torch.uint8)
    assert isinstance(crowds, Blaze)
    with Waits() as counted:
        assert all(crowds.find(rgb))
    assert counted.waits == 2, counted.found


def test_it_is_loaded_by_name(small: Weights) -> None:
    """Variant, files, licence and what was set are recorded; the name that its networks had for a while means the same."""
    annotator = load_annotator("openpose:movenet", device="cpu", weights=small, params={"threshold": 0.4})
    assert (annotator.name, annotator.variant) == ("openpose", "blaze")
    assert annotator.provenance["parameters"] == {"threshold": 0.4}
    assert list(annotator.provenance["weights"]) == list(BLAZE)
    assert annotator.provenance["commercial"]
    with pytest.raises(AnnotatorError, match=r"openpose\.precision has no meaning for openpose:blaze"):
        load_annotator("openpose:blaze", params={"precision": "fp16"}, device="cpu", weights=small)


def test_where_it_looks(crowds: Annotator) -> None:
    """A quarter beyond a box's longer side, never without area; at known people turned so that they stand."""
    boxes = Boxes(np.zeros(2, int), np.ones(2), np.array([[[0.0, 10], [20, 110]], [[5, 5], [5, 5]]]))
    squares = regions(boxes)
    assert squares.side.tolist() == [100 * MARGIN, 8.0]
    assert squares.centre.tolist() == [[10, 60], [5, 5]]
    for top, angle in (((50, 20), 0), ((80, 50), 90), ((50, 80), 180), ((20, 50), -90)):
        square = upright(np.array([[50.0, 50.0]]), np.array([top], float))
        assert square.side == pytest.approx([30 * AROUND])
        assert np.cos(square.angle - np.radians(angle)) == pytest.approx([1])
        assert square.place(np.array([[[0.5, 0.5 - 1 / AROUND]]]))[0, 0] == pytest.approx(top)
    assert isinstance(crowds, Blaze)
    there, belief = crowds.look(
        photograph(data.astronaut()), np.full((2, 2), 200.0), np.array([[200.0, 90], [90, 200]])
    )
    assert there.shape == (2, 18, 3)
    assert (belief >= 0).all()
