"""Segments: what is finished of a shard under way stays, whatever ends the build, and nothing that is there is believed unseen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.built_in import among_built_in
from support.datasets import tree
from support.pictures import encoded
from support.thorough import slow_ones

from condprep import Maps, build
from condprep.building import keeping
from condprep.building.device_stage import DeviceStage
from condprep.building.keeping import Keeper, Pace, Turn
from condprep.dataset.segments import Again, Segments
from condprep.dataset.shards import Row, ShardWriter
from condprep.errors import ShardFault
from condprep.runtime.progress import Progress
from condprep.types import Reject

INPUTS = 17
ONE: dict[
    str, Any
] = {  # shard of three shapes, three or four pictures a batch, with captions, a reject, and held-out rows
    "resolution": 256,
    "fit": "bucket",
    "max_upscale": 9,
    "batch_size": 1,
    "validation": 0.3,
    "shard_rows": 100,
    "shard_bytes": 1_000_000,
    "workers": 2,
}


class Killed(Exception):
    """Stands for SIGKILL: a fault of the program, after which nothing more is written."""


class Sociable:
    """A network stand-in whose maps and lists tell which pictures were in the batch."""

    name, variant, device, batch_size, binary = "sociable", "", "cpu", 8, False
    columns: ClassVar = {"together": pa.list_(pa.string()), "mean": pa.float32()}
    provenance: ClassVar = {"parameters": {}, "weights": {}, "licence": "none", "commercial": True}

    def __call__(self, rgb: torch.Tensor, keys: list[str]) -> Maps:
        grey = (rgb.float().mean(1, keepdim=True) + sum(int(key[:2], 16) for key in keys)).remainder(256).byte()
        together = [[key[:4] for key in keys]] * len(keys)
        return Maps(grey, {"together": together, "mean": rgb.float().mean((1, 2, 3)).tolist()})


def among_annotators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The annotator `sociable` is built in; and few pictures may come while one waits."""
    among_built_in(monkeypatch, Sociable())
    monkeypatch.setattr(DeviceStage, "pending", 4_000_000)


sociable = pytest.fixture(among_annotators)


class Deaths:
    """Kills builds after so many segments more; 0: never."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, write = 0, Segments.write

        def dying(segments: Segments, *arguments: Any) -> None:
            write(segments, *arguments)
            self.left -= 1
            if self.left == 0:
                raise Killed

        monkeypatch.setattr(Segments, "write", dying)


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three shapes, one of them rare, with captions; one is none."""
    folder, rng = tmp_path_factory.mktemp("segments") / "pile", np.random.default_rng(0)
    folder.mkdir()
    for number in range(INPUTS):
        sides = (96, 96) if number % 3 else (128, 72)
        sides = (72, 128) if number in (2, 9, 14) else sides
        noise = rng.integers(0, 256, (*sides, 3), np.uint8)
        (folder / f"{number:02d}.png").write_bytes(b"none" if number == 6 else encoded(noise, "png"))
        (folder / f"{number:02d}.txt").write_text(f"picture {number}\nof a pile")
    return folder


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is a segment by itself, as if each had taken an hour."""
    monkeypatch.setattr(keeping, "SECONDS", 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("sociable", "at_once")
@pytest.mark.parametrize(
    ("annotators", "form", "each"),
    [("sociable", "arrow", 1), (("canny", "sociable"), "parquet", 5), ("canny", "webdataset", 7)],
)
def test_killed_after_any_row_a_shard_goes_on_to_the_same_bytes(
    pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, annotators: Any, form: str, each: int
) -> None:
    """Killed after every single row of a shard, or every few, each life goes on where the one before was, in batches of the
    very pictures that an undisturbed build brings together: rows, rejects, files and counts are the same bytes."""
    build(pile, tmp_path / "whole", annotators, format=form, **ONE)
    deaths, began, done = Deaths(monkeypatch), list[int](), False
    while not done:
        told: list[Progress] = []
        deaths.left = each
        with suppress(Killed):
            build(pile, tmp_path / "ds", annotators, format=form, progress=told.append, **ONE)
            done = True
        began.append(next(state.done for state in told if state.stage == "build"))
    assert began == list(range(0, INPUTS, each))
    assert tree(tmp_path / "ds") == tree(tmp_path / "whole")


@pytest.fixture(scope="module")
def begun(pile: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a build that was killed after eight rows, the same of another quality, and one that was not killed."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patched:
        among_annotators(patched)
        patched.setattr(keeping, "SECONDS", 0.0)
        build(pile, folder / "whole", "sociable", **ONE)
        deaths = Deaths(patched)
        for name, quality in (("ds", 95), ("other", 80)):
            deaths.left = 8
            with pytest.raises(Killed):
                build(pile, folder / name, "sociable", **ONE | {"image_quality": quality})
    return folder


def damage(path: Path, how: str, other: Path) -> None:
    """other: a segment of the same inputs of another build."""
    data = path.read_bytes()
    if how in ("gone", "folder"):
        path.unlink()
    if how == "folder":
        path.mkdir()
    changed = {
        "cut": data[:-1000],
        "empty": b"",
        "flipped": data[:2000] + bytes([data[2000] ^ 1]) + data[2001:],
        "foreign": other.read_bytes(),
        "sealed otherwise": data[:-32] + other.read_bytes()[-32:],
    }
    if how in changed:
        path.write_bytes(changed[how])


@pytest.mark.usefixtures("sociable")
@pytest.mark.parametrize(
    "how", ["flipped", "gone", "foreign", *slow_ones(["cut", "empty", "folder", "sealed otherwise"])]
)
def test_a_segment_that_is_not_as_it_was_written_is_made_again(
    pile: Path, tmp_path: Path, begun: Path, how: str
) -> None:
    """Damaged, cut, or of another plan: it and what follows it is taken away, and done again."""
    shutil.copytree(begun / "ds", tmp_path / "ds")
    folder = tmp_path / "ds" / ".condprep" / "shards" / "000000.segments"
    assert len(list(folder.iterdir())) == 8
    third = folder / "00000002-00000003"
    damage(third, how, begun / "other" / third.relative_to(tmp_path / "ds"))
    (folder / "notes.txt").write_text("what somebody laid there")
    assert build(pile, tmp_path / "ds", "sociable", **ONE).resumed == 2
    assert tree(tmp_path / "ds") == tree(begun / "whole")


@pytest.mark.usefixtures("sociable")
@pytest.mark.parametrize("annotators", ["canny", "sociable"])
def test_what_is_finished_when_a_build_is_stopped_stays(pile: Path, tmp_path: Path, annotators: str) -> None:
    """Ctrl-C keeps every row that was written, however few; the next run's progress begins there, and so does its result."""
    build(pile, tmp_path / "whole", annotators, **ONE)

    def interrupt(state: Progress) -> None:
        if state.stage == "build" and state.done == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(pile, tmp_path / "ds", annotators, progress=interrupt, **ONE)
    kept, of = keeping.kept_pictures(keeping.Layout(tmp_path / "ds")) or (0, 0)
    assert of == INPUTS
    assert kept == 14 if annotators == "canny" else 5 < kept < 14
    told: list[Progress] = []
    result = build(pile, tmp_path / "ds", annotators, progress=told.append, **ONE)
    building = [(state.done, state.total) for state in told if state.stage == "build"]
    assert building == [(done, INPUTS) for done in range(kept, INPUTS + 1)]
    assert result.resumed == kept
    assert tree(tmp_path / "ds") == tree(tmp_path / "whole")


@pytest.mark.usefixtures("sociable")
def test_progress_counts_what_networks_have_seen(pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what is written: pictures of which the first waits for others of its shape are told before its row is there. The
    total stands from the beginning."""
    told, written, add = list[Progress](), list[int](), ShardWriter.add

    def noted(self: ShardWriter, outcome: Any) -> None:
        written.append(sum(state.stage == "build" for state in told))
        add(self, outcome)

    monkeypatch.setattr(ShardWriter, "add", noted)
    build(pile, tmp_path / "ds", "sociable", progress=told.append, **ONE)
    building = [(state.done, state.total) for state in told if state.stage == "build"]
    assert building == [(done, INPUTS) for done in range(INPUTS + 1)]
    assert written[0] > 5


def test_rejects_in_segments_are_tried_again_when_asked_for(pile: Path, tmp_path: Path) -> None:
    """--retry-rejects believes no kept reject of such a code; of others the segments stay."""

    def interrupt(state: Progress) -> None:
        if state.stage == "build" and state.done == 10:
            raise KeyboardInterrupt

    for codes, resumed in ((["too-small"], 10), (["unknown-format"], 0)):
        out = tmp_path / codes[0]
        with pytest.raises(KeyboardInterrupt):
            build(pile, out, "canny", progress=interrupt, **ONE)
        assert build(pile, out, "canny", retry_rejects=codes, **ONE).resumed == resumed


class Noted(Segments):
    """Segments that are written nowhere."""

    def __init__(self, rows: int) -> None:
        super().__init__(Path("nowhere"), "", rows)
        object.__setattr__(self, "ends", [])

    def write(self, first: int, outcomes: Any, again: Any, schema: Any) -> None:
        self.ends.append((first, first + len(outcomes), [one.place for one in again]))  # type: ignore[attr-defined]


def keep(keeper: Keeper, turns: Iterable[Turn], error: BaseException) -> None:
    """Rows, of which the third is a reject, until the error comes."""
    with keeper:
        for turn in turns:
            keeper.add(turn, Reject("2", "read", "none", "second") if turn.place == 2 else row())
        raise error


def row(size: int = 1000) -> Row:
    return Row({"image": {"bytes": bytes(size), "path": None}}, "train", False, False, False)


@pytest.mark.parametrize(
    ("seconds", "batch", "size", "rows"),
    [
        (0.003, 1, 100_000, 1000),  # a filter: a shard of seconds
        (0.003, 1, 1_000, 20_000),  # and one of a minute
        (0.25, 1, 100_000, 2_000),
        (0.25, 16, 20_000_000, 400),
        (3.0, 16, 100_000, 100),  # a network on a CPU
        (90.0, 1, 1_000, 30),
    ],
)
def test_no_more_than_a_minute_or_a_hundred_pictures_can_be_lost(
    seconds: float, batch: int, size: int, rows: int
) -> None:
    """Whatever a row takes, and though rows come a batch at a time: at any moment what is not kept is less than a minute's work
    or no more than a hundred pictures. A shard of seconds has no segments; of others, not more than one a second or 32 MB."""
    now = 0.0
    pace = Pace(lambda: now)
    segments, data = Noted(rows), row(size)
    keeper = Keeper(segments, pa.schema([]), 0, pace)
    for place in range(rows):
        if place % batch == 0:
            now += seconds * batch
        last = min(rows, place - place % batch + batch) - 1
        keeper.add(Turn(place, settled=last), data)
        kept = segments.ends[-1][1] if segments.ends else 0  # type: ignore[attr-defined]
        assert (place + 1 - kept) * seconds <= 60 or place + 1 - kept <= 100
    ends = segments.ends  # type: ignore[attr-defined]
    quick = rows * seconds < keeping.QUICK
    assert bool(ends) is not quick
    assert len(ends) <= min(rows, max(rows * seconds, 1) + rows * size / keeping.LOT_BYTES)
    assert [first for first, _, _ in ends] == [0, *(end for _, end, _ in ends)][:-1] if ends else True
    assert all(end < rows for _, end, _ in ends)
    if batch * size < keeping.LOT_BYTES:  # else a batch would be held that is larger
        assert not any(again for _, _, again in ends)


def test_a_segment_says_which_inputs_share_batches_with_later_ones(tmp_path: Path) -> None:
    """Those are seen once more, each with the bytes of what came between; and they are forgotten once their batch is complete."""
    segments = Segments(tmp_path / "000000.segments", "a plan", 100)
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
    keeper = Keeper(segments, schema, 0, Pace(lambda: 0.0))
    turns = [
        Turn(place, before=100 * place, after=100 * place + 100, settled=settled)
        for place, settled in enumerate((0, 4, 2, 9, 4))
    ]
    with pytest.raises(KeyboardInterrupt):
        keep(keeper, turns, KeyboardInterrupt())
    kept = segments.read(schema)
    assert (kept.end, kept.again, kept.codes) == (5, (Again(3, 200),), {"second"})
    assert [type(one) for one in kept.outcomes()] == [Row, Row, Row, Row, Reject]


@pytest.mark.parametrize(
    ("error", "kept"), [(KeyboardInterrupt(), 3), (ShardFault("gone"), 0), (RuntimeError("a bug"), 0)]
)
def test_what_ends_a_shard_decides_whether_the_last_rows_are_kept(
    tmp_path: Path, error: BaseException, kept: int
) -> None:
    """All but the last where somebody stopped it; after a fault, be it of storage or of the program, what was kept before."""
    segments = Segments(tmp_path / "000000.segments", "a plan", 3 + 1)
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
    keeper = Keeper(segments, schema, 0, Pace(lambda: 0.0))
    with pytest.raises(type(error)):
        keep(keeper, map(Turn.alone, range(4)), error)
    assert segments.look().end == kept


def test_no_space_for_segments_is_no_reason_to_stop(
    pile: Path, tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be kept is not, and what was kept makes room: the shard is built all the same."""
    write, calls = Segments.write, 0

    def full(self: Segments, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(28, "No space left on device")
        write(self, *arguments)

    monkeypatch.setattr(Segments, "write", full)
    assert build(pile, tmp_path / "ds", "canny", **ONE).inputs == INPUTS
    assert calls == 3
    monkeypatch.undo()
    build(pile, tmp_path / "whole", "canny", **ONE)
    assert tree(tmp_path / "ds") == tree(tmp_path / "whole")
    assert json.loads((tmp_path / "ds" / ".condprep" / "done.json").read_text())["rejects"] == {"unknown-format": 1}
