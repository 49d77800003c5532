"""lineart, pidinet, teed, mlsd, normalbae in batches. That they equal controlnet_aux, test_aux.py holds by their former names."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from support.aux_models import OWN, Checkpoints, batch, picture, undrawn
from support.thorough import slow_ones

from condprep import load_annotator
from condprep.annotators.kinds import kind_of_annotator
from condprep.annotators.lines.drawings import renamed
from condprep.annotators.lines.segments import FARTHEST, draw_segments, likeliest
from condprep.annotators.protocol import Annotator, full_name
from condprep.annotators.recorded import is_own
from condprep.annotators.registry import canonical
from condprep.annotators.runner import Runner
from condprep.errors import WeightsError
from condprep.weights.find import Weights

KEYS = [sha256(bytes([n])).hexdigest() for n in range(8)]
NAMES = {  # of the tests' own weights
    "lineart": "lineart",
    "pidinet": "pidinet",
    "pidinet:scribble": "pidinet_scribble",
    "teed": "teed",
    "mlsd": "mlsd",
}
HEAVY = {"lineart_anime": "lineart_anime", "normalbae": "normalbae"}
STEPS = {
    "lineart": 1,
    "pidinet": 1,
    "lineart_anime": 1,
    "normalbae": 1,
}  # grey levels that rounding may make; else one in 1,000


@pytest.fixture(scope="module")
def folder(checkpoints: Checkpoints) -> Path:
    """A folder with random weights."""
    (made,) = {checkpoints(variant) for variant in NAMES.values()}
    return made


def load(name: str, folder: Path) -> Annotator:
    with undrawn(0.3):
        return load_annotator(name, weights=Weights(folder, offline=True, say=lambda _: None))


def differ(ours: torch.Tensor, theirs: torch.Tensor, name: str) -> float:
    """The share of pixels that are further apart than rounding makes them."""
    return float(((ours.int() - theirs.int()).abs() > STEPS.get(name, 0)).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *HEAVY])
def test_a_map_does_not_depend_on_its_batch(name: str, checkpoints: Checkpoints) -> None:
    """Batches of 1, 3 and 8 of a size off the grid: the same maps up to rounding, of the picture's own size."""
    annotator = load(name, checkpoints({**NAMES, **HEAVY}[name]))
    pictures = batch(*(np.roll(picture(40, 70), 20 * n, axis=1) for n in range(8)))
    whole = annotator(pictures, KEYS).maps
    assert whole.shape == (8, 3 if name == "normalbae" else 1, 40, 70)
    assert len(whole.unique()) > 1, "a flat map would equal anything"
    for size, some in ((1, slice(0, 2)), (3, slice(2, 8))):  # each picture once
        parts = torch.cat([annotator(part, KEYS[: len(part)]).maps for part in pictures[some].split(size)])
        assert differ(parts, whole[some], name) <= 1e-3


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)])
def test_a_picture_of_one_pixel_has_a_map(name: str, checkpoints: Checkpoints) -> None:
    """So has a single row, and a column."""
    annotator = load(name, checkpoints({**NAMES, **HEAVY}[name]))
    for size in ((1, 1), (1, 40), (40, 1)):
        maps = annotator(batch(picture(*size)), KEYS[:1]).maps
        assert maps.shape == (1, 3 if name == "normalbae" else 1, *size)


@pytest.mark.parametrize("name", [*NAMES][-2:] + slow_ones([*NAMES][:-2]))
def test_what_is_seen_and_drawn_is_what_a_call_returns(name: str, folder: Path) -> None:
    """A build draws in threads of the CPU what the network has seen: the same maps."""
    annotator, rgb = load(name, folder), batch(picture(40, 70), picture(110, 70)[70:])
    whole = annotator(rgb, KEYS[:2]).maps
    for number, (pixels, columns) in enumerate(Runner(annotator)(rgb, KEYS[:2])):
        assert np.array_equal(pixels, whole[number, 0])
        assert not columns


def test_former_names_are_the_same_annotators() -> None:
    """What was `aux:lineart` is `lineart`, without being asked for trust, in old records as in commands; kinds are the same."""
    for former in OWN:
        name = canonical(f"aux:{former}")
        assert not name.startswith("aux")
        assert is_own(f"aux:{former}")
        assert kind_of_annotator("aux", former) == kind_of_annotator(*name.partition(":")[::2]) is not None


def test_a_former_name_is_loaded_as_the_new_one(folder: Path) -> None:
    """The annotator says its present name, which is what a new dataset records."""
    annotator = load("aux:pidinet_scribble", folder)
    assert full_name(annotator.name, annotator.variant) == "pidinet:scribble"


def test_the_provenance_names_file_precision_and_licence(folder: Path) -> None:
    """The sha256 of the file that was loaded, how it computed, and that PiDiNet's weights are not for commerce."""
    made = load("pidinet:safe", folder).provenance
    digest = sha256((folder / "table5_pidinet.pth").read_bytes()).hexdigest()
    assert made["weights"] == {"table5_pidinet.pth": digest}
    assert made["parameters"] == {"precision": "fp32"}
    assert "non-commercial" in made["licence"]
    assert made["commercial"] is False


def test_a_checkpoint_without_its_part_is_refused(tmp_path: Path) -> None:
    """A file that does not hold the network under its name is another model's, and is named."""
    torch.save({"weights": {}}, tmp_path / "scannet.pt")
    with pytest.raises(
        WeightsError, match=r"scannet\.pt is a checkpoint of another model than scannet\.pt: missing model"
    ):
        load("normalbae", tmp_path)


def test_names_of_several_gpus_are_understood() -> None:
    """netG.pth may put "module." before every name; other names stay what they are and are refused later."""
    assert renamed({"module.model.model.0.bias": torch.zeros(1)}).keys() == {"down.0.bias"}
    assert renamed({"model.model.3.bias": torch.zeros(1), "other.weight": torch.zeros(1)}).keys() == {
        "up.0.bias",
        "other.weight",
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_segments_that_are_no_numbers_are_no_error(value: float) -> None:
    """An end that is not a number is not drawn, one that lies endlessly far is drawn as far as the picture goes."""
    found = np.array([[0.9, 8, 8, -4, 0, 4, 0], [0.9, 8, 4, 0, 0, value, 0]], np.float32)
    drawn = draw_segments(found, 32, 32)
    assert drawn[16, 8:25].all()
    assert drawn[8, 16:].any() == (not np.isnan(value))
    assert FARTHEST > 32


def test_the_likeliest_segments_come_first() -> None:
    """Maxima alone, by score, with the ends that the answer has at that very pixel."""
    answer = torch.zeros(2, 9, 8, 6)
    answer[:, 0] = -9
    answer[0, 0, 2, 3], answer[0, 0, 2, 4], answer[0, 0, 6, 1] = 3, 2, 4
    answer[0, 1:5, 6, 1] = torch.tensor([1.0, 2, 3, 4])
    first, second = likeliest(answer)[0, :2]
    assert first.tolist()[1:] == [1, 6, 1, 2, 3, 4]
    assert second.tolist()[1:3] == [3, 2]
