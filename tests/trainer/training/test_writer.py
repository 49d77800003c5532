"""Checkpoints that a thread writes: of the moment at which they were asked for, one at a time, and none lost in silence."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest
from support.learners import RATE, make_batch, make_learner, stir, weights
from support.trainer_models import save_base

from trainer.errors import TrainingStopped
from trainer.training.checkpoint import Checkpoints
from trainer.training.state import read_state
from trainer.training.writer import CheckpointWriter

MANIFEST: dict[str, Any] = {"recipe": {}, "dataset": "rows", "position": {}}


class State:
    """What is to be written: its writing can be held up, or fail."""

    size = 100

    def __init__(self, fails: bool = False) -> None:
        self.may, self.fails, self.copies = Event(), fails, 0

    def copied(self) -> State:
        self.copies += 1
        return self

    def write(self, folder: Path) -> None:
        assert self.may.wait(600)
        if self.fails:
            raise OSError(28, "No space left on device")
        (folder / "weights").write_text("")


@pytest.fixture
def writer(tmp_path: Path) -> CheckpointWriter:
    return CheckpointWriter(Checkpoints(tmp_path / "checkpoints", keep=3))


def names(writer: CheckpointWriter) -> list[str]:
    return sorted(path.name for path in writer.checkpoints.folder.iterdir())


def test_a_copy_is_of_its_moment(tmp_path: Path) -> None:
    """Written after two further updates, it has the weights, the average and the moments of before them."""
    base = save_base(tmp_path / "base")
    first, batch = make_learner(base), None
    batch = make_batch(first.base)
    first.step([batch], RATE)
    before, state = weights(first), first.state().copied()
    for _ in range(2):
        first.step([batch], RATE)
    state.write(tmp_path)
    second = make_learner(base)
    stir(second.controlnet)
    second.restore(read_state(tmp_path, second.controlnet), update=1)
    assert all(a.equal(b) for a, b in zip(weights(second), before))
    for _ in range(2):
        second.step([batch], RATE)
    for which in ("raw", "best"):
        assert all(a.equal(b) for a, b in zip(second.weights(which), first.weights(which)))
    assert state.size == sum(weight.nbytes for weight in before) * 4 + 4 * len(before)  # a count of steps each


def test_training_goes_on_while_one_is_written(writer: CheckpointWriter) -> None:
    """`save` and `check` return before it is on the disk; it has its name when it is whole; the next one waits."""
    state: Any = State()
    writer.save(1, state, MANIFEST)
    writer.check()
    assert "00000001" not in (names(writer) if writer.checkpoints.folder.exists() else [])
    state.may.set()
    writer.save(2, state, MANIFEST)
    assert "00000001" in names(writer)
    writer.wait()
    assert names(writer) == ["00000001", "00000002"]
    assert state.copies == 2


def test_without_room_for_a_copy_it_is_written_at_once(
    writer: CheckpointWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then training waits, and nothing is copied."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("Free", "available")(149))
    state: Any = State()
    state.may.set()
    writer.save(1, state, MANIFEST)
    assert names(writer) == ["00000001"]
    assert not state.copies


def test_one_that_cannot_be_written_is_said(writer: CheckpointWriter) -> None:
    """At the next update, at the next checkpoint, or at the end; what was whole before stays, and half of one does not."""
    good: Any = State()
    good.may.set()
    writer.save(1, good, MANIFEST)
    bad: Any = State(fails=True)
    writer.save(2, bad, MANIFEST)
    bad.may.set()
    with pytest.raises(TrainingStopped, match=r"checkpoint of update 2 could not be written: .*No space left"):
        writer.save(3, good, MANIFEST)
    writer.close()
    assert names(writer) == ["00000001"]
