"""Trackers get what metrics.jsonl gets, and an interrupted run stays one run in them."""

from __future__ import annotations

import importlib.util
import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.trainer_runs import lines, make_place, make_recipe

from trainer.errors import MachineError
from trainer.recipe.recipe import Recipe
from trainer.training import trackers
from trainer.training.machine import make_accelerator
from trainer.training.trackers import start_tracker
from trainer.training.train import train

Values = dict[int, float]  # update -> loss


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a dataset."""
    return make_place(tmp_path_factory.mktemp("trackers"), rows=16)


def tracked(place: Path, out: Path, tracker: str, steps: int = 4) -> Recipe:
    """A line after every update; a validation with a picture, and a checkpoint, after every second one."""
    tables: dict[str, Any] = {
        "train": {"steps": steps},
        "eval": {"every": 2, "samples": 1},
        "log": {"every": 1, "tracker": tracker, "project": "tiny"},
        "save": {"every": 2},
    }
    return make_recipe(place, out, **tables)


def in_tensorboard(out: Path) -> tuple[Values, int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "logs" / "tiny"), size_guidance={"images": 0}).Reload()  # all of them
    return {event.step: event.value for event in events.Scalars("loss")}, len(events.Images("samples"))


def in_wandb(out: Path) -> tuple[Values, int]:
    files = sorted((out / "logs" / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.name for file in files}) == 1  # run-ID.wandb, of every part of the run
    losses: Values = {}
    for file in files:
        for record in wandb_records(file.read_bytes()):
            row = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if "loss" in row:
                losses[int(row["_step"])] = json.loads(row["loss"])
    return losses, len(list((out / "logs" / "wandb").rglob("media/images/samples*.png")))


def wandb_records(data: bytes) -> Iterator[Any]:
    """The records of an offline run: 7 bytes of header, then LevelDB's log, blocks of 32 KiB with parts of records."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def in_trackio(out: Path) -> tuple[Values, int]:
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("tiny")
    assert run.startswith(out.name)
    rows = SQLiteStorage.get_logs("tiny", run)
    return {row["step"]: row["loss"] for row in rows if "loss" in row}, sum("samples" in row for row in rows)


READERS: dict[str, Callable[[Path], tuple[Values, int]]] = {
    "tensorboard": in_tensorboard,
    "wandb": in_wandb,
    "trackio": in_trackio,
}


def until_the_next_second() -> None:
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", READERS)
def test_an_interrupted_run_is_one_run(tracker: str, place: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """2 updates, resumed for 2 more: one run with the losses of metrics.jsonl and a picture of every validation."""
    pytest.importorskip(tracker, reason=f"needs the package {tracker}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "output"
    for steps in (2, 4):
        train(tracked(place, out, tracker, steps))
        until_the_next_second()  # by which wandb names the folder of what goes on
    expected = {line["update"]: line["loss"] for line in lines(out) if "loss" in line}
    losses, pictures = READERS[tracker](out)
    assert sorted(expected) == [*range(1, 5)]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert pictures == 3  # at 0, 2, 4


@pytest.fixture(scope="module", autouse=True)
def trackio_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Not in the user's own folder; trackio reads the variable when it is imported."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        yield


def test_what_a_killed_run_wrote_is_hidden(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tensorboard shows the losses up to the checkpoint, and after it those of the run that goes on."""
    from tensorboard.summary.writer import event_file_writer as writer

    # Files of one second are read in the order of their process's own numbers, as text: 10 before 9.
    monkeypatch.setattr(writer, "_global_uid", writer.AtomicCounter(0))
    recipe = tracked(place, tmp_path, "tensorboard")
    for update, loss, last in ((0, 1.0, 5), (2, 2.0, 4)):
        accelerator = make_accelerator(recipe)
        start_tracker(accelerator, recipe, update)
        for step in range(update + 1, last + 1):
            accelerator.log({"loss": loss}, step=step)
        accelerator.log({"samples": 0.0}, step=last)
        accelerator.end_training()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "logs" / "tiny")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 1), (3, 2), (4, 2)]


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_said(tracker: str, monkeypatch: Any, tmp_path: Path, place: Path) -> None:
    """Before anything is loaded, and not skipped silently: the run would be without its curves."""
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match=f'log.tracker = "{tracker}" is not installed: pip install {tracker}'):
        train(tracked(place, tmp_path / "output", tracker))
    assert not (tmp_path / "output").exists()


def test_auto_takes_tensorboard_where_it_is(monkeypatch: Any) -> None:
    """And no tracker where it is not: metrics.jsonl is there in any case."""
    for found, expected in ((object(), "tensorboard"), (None, None)):
        monkeypatch.setattr(trackers, "find_spec", lambda _, found=found: found)
        assert trackers.find_tracker("auto") == expected
    assert trackers.find_tracker("none") is None


LOGIN = "machine api.wandb.ai\n  login user\n  password secret\n"


@pytest.mark.parametrize(
    ("environment", "files", "let_in"),
    [
        ({}, {}, False),
        ({"WANDB_API_KEY": "secret"}, {}, True),
        ({"WANDB_MODE": "offline"}, {}, True),
        ({"WANDB_MODE": "online"}, {}, False),
        ({}, {".netrc": LOGIN}, True),
        ({}, {".netrc": LOGIN.replace("api.wandb.ai", "elsewhere.org")}, False),
        ({"WANDB_BASE_URL": "https://elsewhere.org:8080"}, {".netrc": LOGIN}, False),
        ({"NETRC": "~/logins"}, {"logins": LOGIN}, True),
        ({}, {".config/wandb/settings": "[default]\nmode = offline\n"}, True),
        ({}, {".config/wandb/settings": "[default]\nproject = tiny\n"}, False),
        ({"RANK": "1"}, {}, True),
    ],
)
def test_wandb_without_a_login_is_said_before_anything_is_loaded(
    environment: dict[str, str], files: dict[str, str], let_in: bool, monkeypatch: Any, tmp_path: Path
) -> None:
    """A key in the environment, in netrc for its own host, or a mode that needs none lets the main process in; else the remedy is said."""
    for name in ("API_KEY", "MODE", "BASE_URL", "CONFIG_DIR", "IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name in ("NETRC", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)} | environment).items():
        monkeypatch.setenv(name, value)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)  # else netrc takes it for one that others may read
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trackers, "find_spec", lambda _: object())
    if let_in:
        assert trackers.find_tracker("wandb") == "wandb"
    else:
        with pytest.raises(MachineError, match=r'log\.tracker = "wandb", and nobody is logged in .*WANDB_MODE=offline'):
            trackers.find_tracker("wandb")


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs the package wandb")
def test_a_tracker_that_refuses_is_said(tmp_path: Path, place: Path, monkeypatch: Any) -> None:
    """What it says reaches the user in one line, with the key of the recipe, and before the first update."""
    import wandb

    def refuse(**_: Any) -> None:
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.\nmore")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setenv("WANDB_API_KEY", "a key that is no longer good")
    with pytest.raises(
        MachineError, match=r'"wandb" could not be started: No API key configured.*log\.tracker = "none"'
    ):
        train(tracked(place, tmp_path / "output", "wandb"))
    assert not (tmp_path / "output" / "metrics.jsonl").exists()
