"""Poses that nobody signed: who drew them is recognised by the drawing, whatever was done to the maps, and never mistaken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.datasets import written_poses
from support.drawings import body, shifted
from support.movenet_models import models
from support.openpose_dm14 import DM14, FOLDER, HEIGHT, PEOPLE
from support.pictures import encoded
from support.remembering import Remembering
from torch import Tensor

import condprep
from condprep.annotators.openpose.annotator import Openpose
from condprep.annotators.openpose.blaze.annotator import Blaze
from condprep.annotators.openpose.draw import draw_bodies
from condprep.annotators.openpose.load import BODY
from condprep.dataset.pairs.base import Pairs
from condprep.dataset.pairs.open import open_pairs
from condprep.errors import WeightsError
from condprep.images.encode import encode_picture
from condprep.types import Maps
from condprep.verification import reannotate
from condprep.verification.findings import VerifyResult
from condprep.verification.poses.comparison import same_drawing
from condprep.verification.poses.recognition import drew
from condprep.weights.find import Weights

Change = Callable[[np.ndarray], np.ndarray]
SIZE, ROWS = 256, 12
OWN, OTHER = 0.5, 6.0  # pixels by which the joints of one network differ after a JPEG, and those of two


@cache
def people(number: int, noise: float, seed: int) -> np.ndarray:
    """The drawing of two people that only picture `number` has, each joint off by `noise` pixels."""
    place, wobble = np.random.default_rng(number), np.random.default_rng([number, seed])
    found = [
        body(*place.uniform((70, 100), (186, 156)), place.uniform(100, 180), place.uniform(-0.5, 0.5)) for _ in "12"
    ]
    for one in found:
        one[:, :2] += wobble.normal(0, noise, (18, 2))
    return draw_bodies(found, SIZE, SIZE)


class Finder:
    """Finds the people of a picture, whose number is its grey level."""

    name, binary, columns, device, batch_size = "openpose", False, {}, "cpu", 4
    provenance: Mapping[str, Any] = {}

    def __init__(self, noise: float, variant: str) -> None:
        self.variant, self._noise = variant, noise

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        drawn = np.stack([people(int(one[0, 0, 0]), self._noise, seed=1) for one in rgb])
        return Maps(torch.from_numpy(drawn).permute(0, 3, 1, 2), {})


def picture(number: int) -> bytes:
    return encoded(np.full((SIZE, SIZE, 3), number, np.uint8), "PNG")


def poses(path: Path, change: Change = lambda m: m, rows: int = ROWS, shuffled: int = 0) -> Path:
    """A dataset of poses that does not say who drew them. shuffled: maps of other pictures, the first ones."""
    numbers = [(n + 1) % shuffled if n < shuffled else n for n in range(rows)]
    maps = [np.ascontiguousarray(change(people(n, 0, seed=0))) for n in numbers]
    return written_poses([(picture(n), encoded(one, "PNG")) for n, one in enumerate(maps)], path / "rows.parquet")


def read(path: Path) -> Pairs:
    return open_pairs(str(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [lambda m: m, lambda m: m[:, ::-1], lambda m: m[::-1], lambda m: np.rot90(m), lambda m: shifted(m, 9, -5)],
    ids=["as it is", "mirrored", "upside down", "turned", "shifted"],
)
def test_who_drew_the_maps_is_recognised_wherever_they_lie(tmp_path: Path, change: Change) -> None:
    """All rows may be flipped, turned or shifted alike: the drawing is still that of its network, and of no other."""
    rows = read(poses(tmp_path, change))
    assert drew(Finder(OWN, "cmu"), rows, range(ROWS))
    assert not drew(Finder(OTHER, "blaze"), rows, range(ROWS))


@pytest.mark.parametrize(("shuffled", "rows", "found"), [(6, 12, True), (12, 12, False), (0, 3, False), (0, 4, True)])
def test_enough_maps_must_lie_on_their_pictures(tmp_path: Path, shuffled: int, rows: int, found: bool) -> None:
    """Half of the maps may be of other pictures, not all; and three rows are too few to name anybody."""
    assert drew(Finder(OWN, "cmu"), read(poses(tmp_path, rows=rows, shuffled=shuffled)), range(rows)) == found


def test_a_drawing_of_a_few_joints_tells_nothing() -> None:
    """Of an arm nobody can tell who drew it, nor of a map of another shape."""
    arm = body(128, 128, 200)
    arm[6:] = 0
    drawn = draw_bodies([arm], SIZE, SIZE)
    assert same_drawing(drawn, drawn) is None
    assert same_drawing(people(0, 0, 0), people(0, 0, 0)[:100]) is None


class Shelf(Weights):
    """The CMU network's weights are on disk or not, and nothing can be fetched."""

    def __init__(self, holds_cmu: bool) -> None:
        self.told: list[str] = []
        super().__init__(offline=True, say=self.told.append)
        self.holds_cmu = holds_cmu

    def locate(self, name: str) -> Path | None:
        return Path(name) if name == BODY and self.holds_cmu else None


def verified(path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> tuple[VerifyResult, list[str]]:
    """What `verify` says, and the names of the annotators that it loaded."""
    asked: list[str] = []

    def load(name: str, **how: Any) -> Finder:
        asked.append(name)
        return Finder(OWN, "cmu") if name == "openpose:cmu" else Finder(OTHER, "blaze")

    monkeypatch.setattr(reannotate, "load_annotator", load)
    return condprep.verify(path, checks=["alignment"], weights=weights), asked


def test_what_is_recognised_is_compared_to_two_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note names the network, and a shift of 2 px of every row is told, as if a user had named it."""
    result, asked = verified(poses(tmp_path, lambda m: shifted(m, 2, 0)), Shelf(True), monkeypatch)
    assert asked == ["openpose:cmu"]
    assert "alignment: the poses look like those that openpose:cmu draws" in result.notes
    assert sum(finding.reason == "condition is shifted by (+2, 0) px" for finding in result.findings) == ROWS


def test_a_network_that_is_not_on_disk_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the weights of the CMU network only the stand-in is asked, and recognised as nobody."""
    result, asked = verified(poses(tmp_path), Shelf(False), monkeypatch)
    assert asked == ["openpose:blaze"]
    assert not any("look like" in note for note in result.notes)
    assert not result.findings


def test_damaged_weights_leave_it_to_the_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file of the CMU network is named, and the stand-in looks all the same."""

    def load(name: str, **how: Any) -> Finder:
        if name == "openpose:cmu":
            raise WeightsError("body_pose_model.pth is damaged")
        return Finder(OWN, "blaze")

    monkeypatch.setattr(reannotate, "load_annotator", load)
    shelf = Shelf(True)
    result = condprep.verify(poses(tmp_path), checks=["alignment"], weights=shelf)
    assert shelf.told == ["openpose:cmu is not asked who drew the poses: body_pose_model.pth is damaged"]
    assert "alignment: the poses look like those that openpose:blaze draws" in result.notes


class Network(Remembering, Blaze):
    """It is asked about the JPEG of each picture for the maps of each drawer."""


@pytest.mark.slow
@pytest.mark.skipif(
    not (FOLDER.is_dir() and PEOPLE.is_dir()), reason=f"no network and pictures in {FOLDER} and {PEOPLE}"
)
def test_real_networks_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    """Maps of openpose:blaze, mirrored, of pictures that were stored as JPEG then, are its own; those of another are not."""
    blaze, other = Network(models(), device="cpu"), Openpose(DM14(), device="cpu", height=HEIGHT // 2)
    whole = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(PEOPLE.glob("*.jpg"))]
    pictures = [cv2.resize(one, (w, w * one.shape[0] // one.shape[1])) for one in whole for w in (320, 448)]
    for drawer, expected in ((blaze, True), (other, False)):
        maps = [drawer(torch.from_numpy(one).permute(2, 0, 1)[None], [""]).maps[0] for one in pictures]
        mirrored = [encoded(np.ascontiguousarray(one.permute(1, 2, 0).numpy()[:, ::-1]), "PNG") for one in maps]
        path = written_poses(list(zip(map(encode_picture, pictures), mirrored)), tmp_path / f"{expected}.parquet")
        assert drew(blaze, read(path), range(len(pictures))) == expected
