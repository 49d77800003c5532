"""Maps made again: which rows, by which annotator, in batches or alone, and what is said where there is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data
from torch import Tensor

import condprep
from condprep.annotators.canny import Canny
from condprep.checks import again
from condprep.checks.again import NEIGHBOURS, SAMPLE, chosen
from condprep.errors import AnnotatorError
from condprep.pairs import open_pairs
from condprep.types import Maps
from condprep.verified import VerifyResult
from condprep.weights import Weights

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


def use(monkeypatch: pytest.MonkeyPatch, annotator: Canny) -> None:
    monkeypatch.setattr(again, "load_annotator", lambda name, **how: annotator)


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
