"""A verification that was stopped goes on: what was measured is kept, for the same question about the same files only."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.pictures import smooth
from torch import Tensor

import condprep
from condprep.annotators import batches, recorded
from condprep.annotators.canny import Canny
from condprep.cli import verify as command
from condprep.cli.stopping import Stopped
from condprep.runtime.progress import Progress
from condprep.types import Maps
from condprep.verification import reannotate, unfinished
from condprep.verification import verify as verifying
from condprep.verification.unfinished import Unfinished, folder_of

ROWS = 10


class Network(Canny):
    """Canny that wants batches, as a network does, and writes down whom it has seen together."""

    batch_size = 4

    def __init__(self) -> None:
        super().__init__((100, 200))
        self.batches: list[list[str]] = []

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        self.batches.append(list(keys))
        return super().__call__(rgb, keys)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of small pictures, two of which are the same."""
    folder = tmp_path_factory.mktemp("unfinished")
    (folder / "raw").mkdir()
    for n in range(ROWS):
        Image.fromarray(smooth(64, 64, n % (ROWS - 1))).save(folder / "raw" / f"{n}.png")
        (folder / "raw" / f"{n}.txt").write_text(f"a picture, number {n}")
    condprep.build(folder / "raw", folder / "ds", "canny", resolution=64)
    return folder / "ds"


@pytest.fixture
def dataset(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(built, tmp_path / "ds"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The rows that are decoded in the pass over all."""
    found: list[int | None] = []
    real = verifying.open_pair
    monkeypatch.setattr(verifying, "open_pair", lambda pair: (found.append(pair.row), real(pair))[1])
    return found


def stopping(stage: str, after: int) -> Callable[[Progress], None]:
    """A callback that stops a run once so many are done."""

    def told(state: Progress) -> None:
        if (state.stage, state.done) == (stage, after):
            raise Stopped

    return told


def outcome(dataset: Path) -> dict[str, bytes]:
    """What a verification leaves: all its files; of how long it took nothing."""
    private = dataset / ".condprep"
    found = {path.name: path.read_bytes() for path in private.glob("verify*") if path.is_file()}
    assert not folder_of(private / "verify.parquet").exists()
    return {name: data.partition(b'"seconds"')[0] + data[data.find(b'"notes"') :] for name, data in found.items()}


def stop(dataset: Path, stage: str = "verify", after: int = 6, **how: Any) -> None:
    with pytest.raises(Stopped):
        condprep.verify(dataset, workers=2, progress=stopping(stage, after), **how)


def test_what_was_stopped_goes_on_to_the_same_bytes(dataset: Path, built: Path, measured: list[int | None]) -> None:
    """Scores and findings are those of a run that was never stopped, and no row that was measured is measured again."""
    condprep.verify(dataset, workers=2)
    whole = outcome(dataset)
    stop(dataset)
    measured.clear()
    result = condprep.verify(dataset, workers=2)
    assert sorted(measured) == list(range(6, ROWS))
    assert outcome(dataset) == whole
    assert result.rows == ROWS
    assert any(finding.rule == "duplicate-picture" or finding.twin is not None for finding in result.findings)


@pytest.mark.slow
def test_maps_that_a_network_made_again_are_kept_batch_by_batch(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole batches alone are kept, so that those that follow are made up as they would have been."""

    monkeypatch.setattr(batches, "REFERENCE_SIDE", 64)

    def run(**how: Any) -> list[list[str]]:
        network = Network()
        for module in (reannotate, recorded):
            monkeypatch.setattr(module, "load_annotator", lambda name, **_: network)
        if how:
            stop(dataset, checks=["alignment"], **how)
        else:
            condprep.verify(dataset, checks=["alignment"], workers=2)
        return network.batches

    together = run()
    whole = outcome(dataset)
    run(stage="annotate", after=6)
    assert run() == together[1:]
    assert outcome(dataset) == whole
    run(stage="verify", after=3)
    assert run() == []
    assert outcome(dataset) == whole


@pytest.mark.slow
@pytest.mark.parametrize("other", ["checks", "settings", "dataset", "user"])
def test_another_question_begins_anew(
    dataset: Path, measured: list[int | None], monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """What was measured for other checks, thresholds, files, or by somebody else, is not used."""
    how: dict[str, Any] = {"checks": ["structure"]}
    stop(dataset, **how)
    if other == "checks":
        how = {"checks": ["structure", "condition"]}
    elif other == "settings":
        how["settings"] = {"structure": {"max_aspect_error": 2}}
    elif other == "dataset":
        file = next((dataset / "train").glob("*.arrow"))
        file.touch()
    else:
        monkeypatch.setenv("CONDPREP_CACHE", str(dataset.parent / "of another user"))
    measured.clear()
    condprep.verify(dataset, workers=2, **how)
    assert sorted(measured) == list(range(ROWS))
    outcome(dataset)


def test_what_was_changed_by_others_is_not_believed(dataset: Path, measured: list[int | None]) -> None:
    """Rows from the first file on whose seal is not its own are measured again."""
    stop(dataset, checks=["structure"])
    (file,) = folder_of(dataset / ".condprep" / "verify.parquet").glob("rows-*")
    file.write_text(file.read_text().replace("64", "63"))
    measured.clear()
    condprep.verify(dataset, workers=2, checks=["structure"])
    assert sorted(measured) == list(range(ROWS))


@pytest.mark.slow
def test_two_at_once_do_not_meet(dataset: Path) -> None:
    """One process has what is kept; another, meanwhile, verifies without, and takes nothing away."""
    stop(dataset, checks=["structure"])
    scores = dataset / ".condprep" / "verify.parquet"
    with Unfinished(scores, {"another": "question"}) as mine:
        assert mine.known("rows") == 0
        assert condprep.verify(dataset, checks=["structure"], workers=2).rows == ROWS
        assert folder_of(scores).is_dir()
        mine.forget()
    assert not folder_of(scores).exists()


def test_curate_and_report_go_on_with_their_verification(dataset: Path, measured: list[int | None]) -> None:
    """What `curate` and `report` had measured before they were stopped is not measured again."""
    out = dataset.parent / "curated"
    with pytest.raises(Stopped):
        condprep.curate(dataset, out, "duplicates", workers=2, progress=stopping("verify", 4))
    measured.clear()
    assert sum(condprep.curate(dataset, out, "duplicates", workers=2).rows.values()) == ROWS - 1
    assert sorted(measured) == list(range(4, ROWS))
    assert not list((out / ".condprep").glob("*.begun"))
    with pytest.raises(Stopped):
        condprep.report(dataset, out / "page.html", workers=2, progress=stopping("verify", 4))
    measured.clear()
    condprep.report(dataset, out / "page.html", workers=2)
    assert sorted(measured) == list(range(4, ROWS))


def test_the_command_says_how_much_is_kept(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`condprep verify`, stopped: how many rows of how many; nothing where nothing is."""

    def stopped(after: int) -> tuple[Any, ...]:
        @contextmanager
        def told() -> Iterator[Callable[[Progress], None]]:
            yield stopping("verify", after)

        monkeypatch.setattr(command, "progress", told)
        with pytest.raises(Stopped) as stop:
            command.verify(str(dataset), checks=["structure"])
        return stop.value.args

    assert stopped(7) == (f"7 of {ROWS} rows are kept",)
    condprep.verify(dataset, checks=["structure"], workers=2)
    monkeypatch.setattr(unfinished.Unfinished, "_keep", lambda self: None)
    assert stopped(1) == ()


def test_values_come_back_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of every kind, texts, bytes, arrays and what holds them are the same, of the same types, once they are read."""
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(unfinished, "KEEP_EVERY", 0)
    values = [None, True, 7, 0.1, float("inf"), "ß\ud800", b"\0\xff", ("a", (1, [2])), np.float32(0.1), np.int8(-3)]
    array = np.arange(6, dtype=np.int8).reshape(2, 3)
    with Unfinished(tmp_path / "scores", {}) as first:
        first.add("rows", [*values, {"array": array}])
    with Unfinished(tmp_path / "scores", {}) as second:
        ((*read, named),) = second.read("rows")
    assert read == values
    assert [type(one) for one in read] == [type(one) for one in values]
    assert named["array"].dtype == np.int8
    assert (named["array"] == array).all()
    with Unfinished(tmp_path / "scores", {}) as third, pytest.raises(TypeError, match="set cannot be kept"):
        third.add("rows", {1})
