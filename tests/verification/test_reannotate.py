"""Maps made again: which rows, by which annotator, in batches or alone, and what is said where there is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from skimage import data
from support.drawings import body, shifted
from support.thorough import examples
from torch import Tensor

import condprep
from condprep.annotators import recorded
from condprep.annotators.canny import Canny
from condprep.annotators.openpose.draw import draw_bodies
from condprep.dataset.pairs.base import Pair
from condprep.dataset.pairs.open import open_pairs
from condprep.errors import AnnotatorError
from condprep.types import Maps
from condprep.verification import reannotate
from condprep.verification.alignment.comparison import Alignment
from condprep.verification.findings import VerifyResult
from condprep.verification.opened import Opened, OpenedPair
from condprep.verification.reannotate import NEIGHBOURS, SAMPLE, Comparer, Maker, chosen
from condprep.weights.find import Weights

ROWS = 20


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of condprep with pictures of two shapes."""
    folder = tmp_path_factory.mktemp("again")
    (folder / "raw").mkdir()
    for n in range(ROWS):
        picture = Image.fromarray((data.astronaut, data.coffee)[n % 2]()).crop((5 * n, 3 * n, 300 + 5 * n, 280 + 3 * n))
        picture.resize((150, 128 + 16 * (n % 2))).save(folder / "raw" / f"{n:02d}.png")
    condprep.build(folder / "raw", folder / "ds", "canny", resolution=128, fit="bucket")
    return folder / "ds"


def verified(dataset: Path, **how: Any) -> VerifyResult:
    return condprep.verify(dataset, checks=["alignment"], weights=Weights(offline=True, say=lambda _: None), **how)


def scores(result: VerifyResult) -> list[dict[str, Any]]:
    return pq.read_table(result.scores).to_pylist()


class Network(Canny):
    """Canny that wants batches, as a network does, and writes down their sizes."""

    batch_size = 4

    def __init__(self) -> None:
        super().__init__((100, 200))
        self.batches: list[int] = []

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        self.batches.append(len(keys))
        return super().__call__(rgb, keys)


class Broken(Network):
    """Fails on every picture."""

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        raise RuntimeError("no")

    def picture(self, rgb: np.ndarray, key: str) -> tuple[np.ndarray, dict[str, Any]]:
        raise RuntimeError("no")


def use(monkeypatch: pytest.MonkeyPatch, annotator: Canny) -> None:
    for module in (reannotate, recorded):
        monkeypatch.setattr(module, "load_annotator", lambda name, **how: annotator)


def test_the_annotator_that_the_build_wrote_down_is_used(built: Path) -> None:
    """Of a dataset of condprep every row is compared with what its own annotator makes now, and fits."""
    result = verified(built)
    assert {row["compared_with"] for row in scores(result)} == {"made again"}
    assert not result.findings
    assert result.notes[-1] == f"alignment: of {ROWS} rows compared {ROWS} with the maps that canny makes of them"


def test_a_network_gets_batches_and_changes_nothing(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of equal shape, as large as the annotator likes; the scores are those of pictures one by one."""
    alone = scores(verified(built))
    network = Network()
    use(monkeypatch, network)
    assert scores(verified(built)) == alone
    assert sum(network.batches) == ROWS
    assert max(network.batches) > 1


def test_a_sample_is_made_again_and_the_rest_is_compared_with_the_picture(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sample=10` asks a network for 10 rows, always the same, whatever the workers; 0 for none."""
    network = Network()
    use(monkeypatch, network)
    some = [scores(verified(built, sample=10, workers=workers)) for workers in (1, 3)]
    assert some[0] == some[1]
    assert [row["compared_with"] for row in some[0]].count("made again") == 10
    assert sum(network.batches) == 20
    assert {row["compared_with"] for row in scores(verified(built, sample=0))} == {"picture"}


def test_the_sample_is_random_neighbours_together(built: Path) -> None:
    """Exactly as many rows as wanted, in groups of neighbours, the same ones every time; all where there are no more."""
    pairs = open_pairs(str(built))
    rows = [row for row in range(2 * ROWS) if row in chosen(pairs, NEIGHBOURS + 2)]
    assert len(rows) == NEIGHBOURS + 2
    assert rows == [row for row in range(2 * ROWS) if row in chosen(pairs, NEIGHBOURS + 2)]
    assert np.count_nonzero(np.diff(rows) > 1) <= 1
    assert all(row in chosen(pairs, sample) for row in range(ROWS) for sample in ("all", SAMPLE))


def test_an_annotator_that_fails_is_named_and_not_waited_for(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails on every picture is given up with its reason; all rows are compared with the picture."""
    use(monkeypatch, Broken())
    result = verified(built)
    assert {row["compared_with"] for row in scores(result)} == {"picture"}
    assert any("gave up" in note and "RuntimeError: no" in note for note in result.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variant": "someone/model", "annotator": "depth"}, "say --annotator depth:someone/model"),
        ({"weights": {"a.pth": "0" * 64}}, "with other weights"),
        ({"annotator": "nothing"}, "unknown annotator 'nothing'"),
        ({"params": {"low": "x"}}, "canny.low"),
    ],
)
def test_what_a_dataset_says_is_not_trusted(
    built: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    """A recorded annotator that is unknown, other, or fetched from anywhere is not run: a note says why, and no error."""
    record = built / ".condprep" / "provenance.json"
    told = record.read_text()
    made = json.loads(told)
    made["annotators"][0] |= changes
    try:
        record.write_text(json.dumps(made))
        result = verified(built)
    finally:
        record.write_text(told)
    assert {row["compared_with"] for row in scores(result)} == {"picture"}
    assert any(words in note for note in result.notes)


def test_a_mistake_of_the_user_is_an_error(built: Path) -> None:
    """An annotator or a parameter that does not exist is an error of usage, not a note."""
    with pytest.raises(AnnotatorError, match="did you mean canny"):
        verified(built, annotator="cany")
    with pytest.raises(AnnotatorError, match="has no parameter 'lo'"):
        verified(built, annotator="canny", settings={"canny": {"lo": 5}})


# ---- what was built


def test_a_map_of_a_padded_picture_is_made_of_its_content(tmp_path: Path) -> None:
    """Black that a build put around a picture afterwards changes nothing: the map made again is the stored one to the byte."""
    (tmp_path / "raw").mkdir()
    for height in (120, 151, 152, 256):
        Image.fromarray(data.coffee()).resize((256, height)).save(tmp_path / "raw" / f"{height}.png")
        Image.fromarray(data.coffee()).resize((height, 256)).save(tmp_path / "raw" / f"{height} wide.png")
    condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", fit="pad", resolution=256, image_format="png")
    assert [row["fit"] for row in scores(verified(tmp_path / "ds"))] == [float("inf")] * 8


class Poses(Canny):
    """Draws the same people in every picture."""

    name, variant, columns = "openpose", "blaze", {}

    def __init__(self, *people: np.ndarray) -> None:
        super().__init__((100, 200))
        self._drawn = draw_bodies(people, 512, 512)

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        return Maps(torch.from_numpy(self._drawn).permute(2, 0, 1)[None], {})


def poses_compared(poses: Poses, stored: np.ndarray, maker: Maker) -> Alignment:
    opened = OpenedPair(Pair(0, "a"), Opened(rgb=np.full((512, 512, 3), 99, np.uint8)), Opened(rgb=stored))
    compared = Comparer(poses, range(1), maker)(opened)
    assert compared is not None
    return compared.alignment


def test_poses_that_were_built_tell_two_pixels_of_a_few_joints() -> None:
    """A build's map is found again to the byte, so three joints tell a shift of 2 px; of maps that may wobble they do not."""
    arm = body(256, 256, 360)
    arm[[0, 1, *range(5, 18)]] = 0
    stored = shifted(draw_bodies([arm], 512, 512), 2, 0)
    recorded = poses_compared(Poses(arm), stored, "recorded")
    assert (recorded.verdict, recorded.shift) == ("shifted", (2, 0))
    assert not poses_compared(Poses(arm), stored, "named").wrong
    assert not poses_compared(Poses(arm), stored, "stand-in").wrong


def test_an_empty_map_of_a_build_is_not_that_of_a_picture_with_people() -> None:
    """Where the build's own annotator finds people, nobody is another picture's; where it finds nobody, people are."""
    person = body(256, 256, 360)
    people, nobody = draw_bodies([person], 512, 512), np.zeros((512, 512, 3), np.uint8)
    for found, stored in ((Poses(person), nobody), (Poses(), people)):
        assert poses_compared(found, stored, "recorded").verdict == "other picture"
        assert poses_compared(found, stored, "named").verdict == "unknown"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(examples(3, 30)))
def test_joints_that_another_machine_puts_a_pixel_aside_are_none_that_moved(seed: int) -> None:
    """Where single joints of a built map are a pixel off it is aligned, and a shift of 2 px, a flip, a stranger are still told."""
    rng, person = np.random.default_rng(seed), body(256, 256, 360)
    other = person + np.pad(rng.integers(-1, 2, (18, 2)) * (rng.random((18, 1)) < 0.3), ((0, 0), (0, 1)))
    found, stored = Poses(other.astype(np.float32)), draw_bodies([person], 512, 512)
    assert poses_compared(found, stored, "recorded").verdict == "aligned"
    assert poses_compared(found, shifted(stored, 0, 2), "recorded").verdict == "shifted"
    assert poses_compared(found, np.ascontiguousarray(stored[:, ::-1]), "recorded").verdict == "flipped"
    stranger = draw_bodies([body(180, 300, 250, -0.4)], 512, 512)
    assert poses_compared(found, stranger, "recorded").verdict == "other picture"
