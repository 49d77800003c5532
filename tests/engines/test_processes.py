"""The engine with a process for each device: the same bytes, whoever dies, and nobody goes on alone."""

from __future__ import annotations

import itertools
import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.datasets import tree
from support.jobs import OneBreaks, dies, fails
from support.thorough import examples

from condprep import build
from condprep.engines import processes
from condprep.errors import BuildFailed, ProgramFault, UsageError
from condprep.runtime.progress import Progress

SMALL: dict[str, Any] = {"resolution": 64, "shard_rows": 1}  # twelve shards
CPUS = "cpu,cpu,cpu"
KILLS = examples(3, 20)


def ours() -> list[Any]:
    """The processes that build for this one."""
    return multiprocessing.active_children()


def after_each_shard(do: Callable[[Any], None]) -> Any:
    """The engine's note of a shard that was committed, and then `do` with its processes."""
    built = processes._Pool._built

    def noted(self: Any, worker: Any, value: Any) -> None:
        built(self, worker, value)
        do(self)

    return noted


@pytest.mark.slow
def test_killed_again_and_again_they_make_the_bytes_of_one(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three processes one is killed outright, again and again: its shards are done by others, and nothing is lost or doubled."""
    build(raw, tmp_path / "one", ["canny", "canny:random"], **SMALL)
    rng, kills = random.Random(0), 0

    def kill(pool: Any) -> None:
        nonlocal kills
        alive = ours()
        if kills < KILLS and len(alive) == len(pool._workers):  # the one before has been noticed
            killed = rng.choice(alive)
            killed.kill()
            killed.join()  # else others might die before this one is noticed: three in a row stop a build, rightly
            kills += 1

    monkeypatch.setattr(processes._Pool, "_built", after_each_shard(kill))
    for number in itertools.count():
        seen: list[Progress] = []
        out = tmp_path / f"three{number}"
        result = build(raw, out, ["canny", "canny:random"], devices=CPUS, progress=seen.append, **SMALL)
        assert (result.inputs, result.rows, result.rejects) == (12, {"train": 12}, {})
        assert tree(out) == tree(tmp_path / "one")
        assert {(state.stage, state.done) for state in seen} >= {("build", 12), ("finish", 12)}
        assert not ours()
        if kills == KILLS:
            break


def test_an_interruption_ends_all_of_them(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves committed shards and no process; the same call, on one device now, goes on to the same bytes."""
    build(raw, tmp_path / "one", "canny", **SMALL)

    def interrupt(pool: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(processes._Pool, "_built", after_each_shard(interrupt))
        with pytest.raises(KeyboardInterrupt):
            build(raw, tmp_path / "ds", "canny", devices=["cpu", "cpu"], **SMALL)
    assert not ours()
    assert build(raw, tmp_path / "ds", "canny", **SMALL).resumed >= 1
    assert tree(tmp_path / "ds") == tree(tmp_path / "one")


@pytest.mark.slow
def test_processes_that_always_die_end_the_build() -> None:
    """Nobody is started for ever: three deaths without a shard between them are an error that says what to try."""
    with pytest.raises(BuildFailed, match=r"3 processes died .* exit code 7 .*--batch-size"):
        processes.build_shards(dies, [0, 1], ["cpu"], 1, lambda *_: None)
    assert not ours()


@pytest.mark.slow
def test_an_error_in_a_process_is_that_of_the_build() -> None:
    """It comes out as it was raised, and the other processes end."""
    with pytest.raises(UsageError, match="no such weights"):
        processes.build_shards(fails, [0, 1], ["cpu", "cpu"], 1, lambda *_: None)
    assert not ours()


@pytest.mark.slow
def test_one_device_of_several_that_fails_stops_the_build(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures are no rejects: the build stops at once and says why, and on sound devices the same call ends with the bytes of one."""
    build(raw, tmp_path / "one", "canny", **SMALL)
    with monkeypatch.context() as patched:
        patched.setattr("condprep.building.build.OpenBuilder", OneBreaks)
        with pytest.raises(ProgramFault, match=r"canny cannot go on: .*unspecified launch failure"):
            build(raw, tmp_path / "ds", "canny", devices="cpu,cpu", **SMALL)
    assert not ours()
    assert not (tmp_path / "ds" / "train").exists()
    assert build(raw, tmp_path / "ds", "canny", **SMALL).rejects == {}
    assert tree(tmp_path / "ds") == tree(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "device", "says"),
    [
        ("cpu,", "auto", "names no device somewhere"),
        ("cpu,cpu", "cpu", "give one of the two"),
        ("all", "auto", "sees no CUDA device"),
    ],
)
def test_a_slip_is_told(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: str, device: str, says: str
) -> None:
    """What is wrong with --devices is said before anything is written."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=says):
        build(raw, tmp_path / "ds", "canny", devices=devices, device=device)
    assert not (tmp_path / "ds").exists()
