"""A shard as a job: nobody waits between two of them, and neither their order nor doing one twice changes a byte."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from support.datasets import tree

from condprep import build
from condprep.building.begin import begin
from condprep.building.inputs import open_inputs
from condprep.building.options import parse_options
from condprep.building.picture import Draft, Found, Input, Item, PictureStage
from condprep.building.shard import ShardBuilder
from condprep.dataset.layout import Layout
from condprep.dataset.shards import ShardWriter
from condprep.engines.local import build_shards
from condprep.types import Reject
from condprep.weights.find import Weights

SMALL: dict[str, Any] = {"resolution": 128, "shard_rows": 4}


def builder(raw: Path, out: Path, annotators: tuple[str, ...] = ("canny",)) -> ShardBuilder:
    """What builds the three shards of the photographs."""
    layout = Layout(out)
    layout.private.mkdir(parents=True, exist_ok=True)
    made = begin(
        layout,
        open_inputs(raw),
        parse_options(annotators, **SMALL),
        device="cpu",
        weights=Weights(),
        progress=lambda _: None,
    )
    assert made is not None
    return made


@pytest.mark.usefixtures("fragile")
@pytest.mark.parametrize("annotators", [("canny",), ("canny", "fragile")])
def test_neither_order_nor_repetition_changes_a_shard(raw: Path, tmp_path: Path, annotators: tuple[str, ...]) -> None:
    """Shards built in another order, one by one, in other threads, and twice, are the bytes of one run, as are their counts."""
    whole, single = builder(raw, tmp_path / "whole", annotators), builder(raw, tmp_path / "single", annotators)
    total = build_shards(whole, whole.pending, 2)
    counts = {shard: build_shards(single, [shard], workers) for workers, shard in enumerate((2, 0, 1), start=1)}
    assert build_shards(single, [0], 3) == counts[0]
    assert tree(tmp_path / "single") == tree(tmp_path / "whole")
    assert sum(one.inputs for one in counts.values()) == total.inputs == 12
    assert builder(raw, tmp_path / "single", annotators).pending == []


@pytest.mark.parametrize("annotators", [("canny",), ("canny", "fragile")])
def test_while_a_shard_is_committed_the_next_one_is_under_way(
    raw: Path, tmp_path: Path, fragile: Any, monkeypatch: pytest.MonkeyPatch, annotators: tuple[str, ...]
) -> None:
    """Workers never wait for the disk: a commit that lasts until a picture of the next shard is prepared comes to its end."""
    prepared = [threading.Event() for _ in range(4)]
    overlapped = []
    prepare, commit = PictureStage.prepare, ShardWriter.commit

    def noted(self: PictureStage, found: Found) -> Item:
        item = prepare(self, found)
        prepared[found.input.shard].set()
        return item

    def slow(self: ShardWriter) -> None:
        following = int(self.folder.name) + 1
        overlapped.append(following == 3 or prepared[following].wait(600))
        commit(self)

    monkeypatch.setattr(PictureStage, "prepare", noted)
    monkeypatch.setattr(ShardWriter, "commit", slow)
    assert build(raw, tmp_path / "ds", annotators, workers=2, **SMALL).rows == {"train": 12}
    assert overlapped == [True, True, True]


def test_a_shard_takes_no_more_than_its_inputs(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is committed as soon as its last row is written, while the next one's pictures are still to come."""
    release = threading.Event()
    prepare, commit = PictureStage.prepare, ShardWriter.commit
    committed: list[str] = []

    def late(self: PictureStage, found: Found) -> Item:
        assert found.input.shard == 0 or release.wait(600)
        return prepare(self, found)

    def noted(self: ShardWriter) -> None:
        commit(self)
        committed.append(self.folder.name)
        release.set()

    monkeypatch.setattr(PictureStage, "prepare", late)
    monkeypatch.setattr(ShardWriter, "commit", noted)
    assert build(raw, tmp_path / "ds", "canny", workers=2, **SMALL).rows == {"train": 12}
    assert committed == ["000000", "000001", "000002"]


def test_a_picture_is_a_draft_or_a_reject_with_its_key(raw: Path, tmp_path: Path) -> None:
    """What cannot be decoded leaves the stage as a reject that names its source and key, and nothing is raised."""
    (raw / "cut.png").write_bytes(b"\x89PNG")
    source = open_inputs(raw)
    stage = PictureStage(source, parse_options("canny", **SMALL), {})
    states = {entry.name: stage.prepare(stage.read(Input(0, 0, entry)))[1] for entry in source.entries()}
    rejected = states.pop("cut.png")
    assert isinstance(rejected, Reject)
    assert (rejected.source, rejected.stage, len(rejected.key or "")) == ("cut.png", "decode", 64)
    assert all(isinstance(state, Draft) for state in states.values())
