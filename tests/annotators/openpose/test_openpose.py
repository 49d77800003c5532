"""The openpose annotator: against controlnet_aux with one real network in both, on any picture, and how it is loaded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from support.openpose_dm14 import DM14, FOLDER, HEIGHT, PEOPLE, pictures
from support.openpose_parts import as_batch
from support.openpose_reference import Reference
from support.shelf import Shelf

from condprep.annotators.openpose import annotator as annotator_module
from condprep.annotators.openpose import load as openpose
from condprep.annotators.openpose.annotator import Openpose
from condprep.annotators.openpose.blaze import annotator as blaze
from condprep.annotators.openpose.keypoints import KEYPOINTS, bodies
from condprep.annotators.openpose.load import OpenposeParams
from condprep.annotators.openpose.network import BodyNetwork
from condprep.annotators.precision import resolve_precision
from condprep.annotators.runner import Runner
from condprep.errors import AnnotatorError, WeightsUnavailable
from condprep.weights.find import WeightFile

shared = pytest.mark.skipif(
    not (FOLDER.is_dir() and PEOPLE.is_dir()), reason=f"no network and pictures in {FOLDER} and {PEOPLE}"
)


@pytest.fixture(scope="module")
def dm14() -> Openpose:
    """The annotator around the small real network."""
    return Openpose(DM14(), device="cpu", height=HEIGHT)


class Silent(torch.nn.Module):
    """A network that sees nothing."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert x.shape[2] % 8 == x.shape[3] % 8 == 0
        maps = torch.nn.functional.avg_pool2d(x[:, :1], 8) * 0
        return maps.expand(-1, 19, -1, -1), maps.expand(-1, 38, -1, -1)


@pytest.mark.slow
@shared
def test_real_people_are_the_reference_s(dm14):
    """One real network, real pictures: the same people, joints and scores, and the same map byte for byte."""
    reference = Reference(DM14(), scale=1.0)
    found = 0
    for rgb in pictures():
        theirs = reference(rgb)
        result = dm14(as_batch(rgb), [""])
        ours = bodies(result.columns["keypoints"][0])
        assert len(ours) == len(theirs)
        assert all(np.abs(a - b).max() <= 1e-4 for a, b in zip(ours, theirs))
        assert np.array_equal(result.maps[0].permute(1, 2, 0).numpy(), reference.draw(theirs, *rgb.shape[:2]))
        found += len(ours)
    assert found == 12


@pytest.mark.slow
@shared
def test_batching_changes_speed_not_people(dm14, monkeypatch):
    """A batch gives what its pictures give alone, also where it is too large for one pass through the network."""
    batch = as_batch(*(cv2.resize(rgb, (320, 256)) for rgb in pictures()[1:]))
    alone = [dm14(picture, [""]) for picture in batch.split(1)]
    for pixels in (annotator_module.PIXELS, 2 * 368 * 464):
        monkeypatch.setattr(annotator_module, "PIXELS", pixels)
        together = dm14(batch, [""] * len(batch))
        assert torch.equal(together.maps, torch.cat([one.maps for one in alone]))
        for a, [b] in zip(together.columns["keypoints"], (one.columns["keypoints"] for one in alone)):
            assert np.allclose(bodies(a), bodies(b), rtol=0, atol=1e-4)


@shared
def test_what_is_seen_and_drawn_is_what_a_call_returns(dm14):
    """A build draws people in threads of the CPU: the same drawing and the same column."""
    rgb = as_batch(next(iter(pictures())))
    whole, ((pixels, columns),) = dm14(rgb, [""]), Runner(dm14)(rgb, [""])
    assert pixels.any()
    assert np.array_equal(pixels, whole.maps[0].permute(1, 2, 0))
    assert columns == {"keypoints": whole.columns["keypoints"][0]}


@pytest.mark.slow
@shared
def test_half_precision_keeps_the_people(dm14):
    """In bf16 the same number of people is found, and nine of ten joints stay within a pixel."""
    half = Openpose(DM14(), device="cpu", height=HEIGHT, precision="bf16")
    moved = []
    for rgb in pictures()[:2]:
        [exact], [rounded] = dm14.find(as_batch(rgb)), half.find(as_batch(rgb))
        assert len(exact) == len(rounded)
        moved += [np.abs(a.body - b.body)[:, :2].max(1) for a, b in zip(exact, rounded)]
    assert (np.concatenate(moved) <= 1).mean() >= 0.9


@pytest.mark.slow
@shared
@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_empty_picture_gives_a_black_map(dm14, value):
    """One colour everywhere: nobody, an all-black map, an empty list."""
    result = dm14(torch.full((2, 3, 70, 90), value, dtype=torch.uint8), ["", ""])
    assert not result.maps.any()
    assert result.columns["keypoints"] == [{"people": []}] * 2


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (7, 9), (10, 10_000), (10_000, 10), (513, 511)])
def test_any_size_gives_a_map_of_that_size(size):
    """Tiny, long and odd pictures: the map has the picture's size, and the network's input is of multiples of 8."""
    result = Openpose(Silent(), device="cpu")(torch.zeros(2, 3, *size, dtype=torch.uint8), ["", ""])
    assert result.maps.shape == (2, 3, *size)
    assert result.maps.dtype == torch.uint8


@shared
def test_keypoints_fit_the_column(dm14):
    """What is returned is a value of the declared Arrow type, with x, y and a confidence for each of 18 joints."""
    values = dm14(as_batch(pictures()[0]), [""]).columns["keypoints"]
    [stored] = pa.array(values, dm14.columns["keypoints"]).to_pylist()
    [person] = stored["people"]
    assert dm14.columns == {"keypoints": KEYPOINTS}
    assert len(person["pose_keypoints_2d"]) == 18 * 3
    assert 0.1 < max(person["pose_keypoints_2d"][2::3]) < 1.2
    assert person["face_keypoints_2d"] == person["hand_left_keypoints_2d"] == person["hand_right_keypoints_2d"] == []


def test_automatic_precision_is_exact_on_a_cpu():
    """auto never moves a joint on a CPU; a GPU takes fp16; what the user asks for is what runs."""
    assert resolve_precision("auto", "cpu", "openpose") == "fp32"
    assert resolve_precision("auto", "cuda:1", "openpose") == "fp16"
    assert resolve_precision("bf16", "cpu", "openpose") == "bf16"


@pytest.fixture
def stand_in(monkeypatch) -> object:
    """What blaze would load."""
    found = object()
    monkeypatch.setattr(blaze, "Blaze", lambda files, device, threshold: found)
    return found


def load(variant: str, shelf: Shelf):
    return openpose.load(variant, OpenposeParams(), device="cpu", weights=shelf)


def test_blaze_stands_in_aloud_for_missing_weights(stand_in):
    """Plain `openpose` without the CMU weights is blaze, said in one line; `openpose:blaze` says nothing."""
    shelf = Shelf(*(WeightFile(name, Path(), "abc", pinned=True) for name in openpose.BLAZE))
    assert load("", shelf) is stand_in
    [line] = shelf.said
    assert "body_pose_model.pth" in line
    assert "openpose:blaze" in line
    assert load("blaze", shelf) is stand_in
    assert len(shelf.said) == 1


@pytest.mark.parametrize(("variant", "strict"), [("cmu", False), ("cmu", True), ("", True)])
def test_nothing_stands_in_where_that_is_not_wanted(stand_in, variant, strict):
    """`openpose:cmu`, and strict weights, make missing weights an error."""
    with pytest.raises(WeightsUnavailable):
        load(variant, Shelf(strict=strict))


@pytest.mark.slow
def test_cmu_is_loaded_and_recorded(tmp_path):
    """With the weights at hand plain `openpose` is cmu, quietly, and its provenance says what made the maps."""
    path = tmp_path / "body_pose_model.pth"
    torch.save(BodyNetwork().state_dict(), path)
    shelf = Shelf(WeightFile(path.name, path, "abc", pinned=True))
    annotator = load("", shelf)
    assert (annotator.name, annotator.variant, shelf.said) == ("openpose", "cmu", [])
    assert annotator.provenance["weights"] == {"body_pose_model.pth": "abc"}
    assert annotator.provenance["parameters"] == {"precision": "fp32"}
    assert annotator.provenance["commercial"] is False
    assert annotator(torch.zeros(1, 3, 20, 24, dtype=torch.uint8), [""]).maps.shape == (1, 3, 20, 24)


def test_a_parameter_of_the_other_variant_is_refused(stand_in):
    """`precision` is cmu's: what the variant that stands in would not heed is an error, not ignored."""
    with pytest.raises(AnnotatorError, match=r"openpose\.precision has no meaning for openpose:blaze"):
        openpose.load("", OpenposeParams(precision="bf16"), device="cpu", weights=Shelf())
