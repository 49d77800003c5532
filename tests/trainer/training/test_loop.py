"""Whole runs on a tiny base: exact resumes, interruptions, full disks, bad losses, several processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.trainer_models import save_base
from support.trainer_runs import equal, lines, make_place, make_recipe, on_processes, run_task, weights
from support.warm import Warm

from trainer.errors import CheckpointError, TrainingStopped
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml import dump_recipe
from trainer.training import preflight
from trainer.training.memory import Memory, predict_memory
from trainer.training.plan import plan_training
from trainer.training.step import Learner
from trainer.training.train import train
from trainer.types import Batch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a dataset of 24 rows, and the cache that all runs share."""
    return make_place(tmp_path_factory.mktemp("run"), rows=24)


def short(place: Path, out: Path, **tables: dict[str, Any]) -> Recipe:
    """12 updates, which are more than two epochs: a line every 3 and a checkpoint every 6."""
    usual: dict[str, dict[str, Any]] = {"train": {"steps": 12}, "log": {"every": 3}, "save": {"every": 6}}
    names = usual.keys() | tables.keys()
    return make_recipe(place, out, **{name: usual.get(name, {}) | tables.get(name, {}) for name in names})


@pytest.fixture(scope="module")
def undisturbed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """12 updates without an interruption: the run's folder, and the keys of its batches."""
    out = tmp_path_factory.mktemp("whole") / "output"
    with pytest.MonkeyPatch.context() as patched:
        seen = noted_by(patched)
        assert train(short(place, out)).updates == 12
    return out, seen


@pytest.fixture
def whole(undisturbed: tuple[Path, list[list[str]]]) -> Path:
    """The folder of that run."""
    return undisturbed[0]


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The keys of every batch that is learned from."""
    return noted_by(monkeypatch)


def noted_by(patched: pytest.MonkeyPatch) -> list[list[str]]:
    """What is going to hold the keys of every batch that is learned from."""
    seen: list[list[str]] = []
    step = Learner.step

    def noted(batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            seen.append(batch.keys)
            yield batch

    patched.setattr(Learner, "step", lambda self, batches, rate: step(self, noted(batches), rate))
    return seen


@pytest.mark.slow
def test_six_and_six_are_twelve(
    place: Path, undisturbed: tuple[Path, list[list[str]]], tmp_path: Path, learned: list[list[str]]
) -> None:
    """6 updates, resumed for 6 more, equal 12: raw weights, average, losses and rows, bit for bit."""
    out, (whole, rows) = tmp_path / "output", undisturbed
    assert train(short(place, out, train={"steps": 6})).updates == 6
    resumed = train(short(place, out))
    assert resumed.updates == 12
    assert resumed.finished
    for part in (".", "raw", "ema"):
        assert equal(weights(out / part), weights(whole / part))
    assert not equal(weights(out / "raw"), weights(out / "ema"))
    assert [(line["update"], line["loss"]) for line in lines(out)] == [
        (line["update"], line["loss"]) for line in lines(whole)
    ]
    assert learned == rows
    assert len(learned) == 24


class Killed(BaseException):
    """A process's sudden end."""


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(
    place: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in update 11, a run repeats what came after checkpoint 6, forgets its lines, and ends as any other."""
    out, step, passes = tmp_path / "output", Learner.step, iter(range(1, 1000))

    def deadly(batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if next(passes) == 21:
                raise Killed
            yield batch

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "step", lambda self, batches, rate: step(self, deadly(batches), rate))
        with pytest.raises(Killed):
            train(short(place, out))
    assert [line["update"] for line in lines(out)] == [3, 6, 9]
    said: list[str] = []
    train(short(place, out), say=said.append)
    assert "going on from update 6" in said
    assert [line["update"] for line in lines(out)] == [3, 6, 9, 12]
    assert equal(weights(out), weights(whole))


@pytest.mark.slow
def test_other_sizes_of_a_pass_give_the_same_run(place: Path, whole: Path, tmp_path: Path) -> None:
    """micro_batch is free, also in the middle: the losses agree to rounding."""
    out = tmp_path / "output"
    train(short(place, out, train={"steps": 6, "micro_batch": 4}))
    train(short(place, out, train={"micro_batch": 1}))
    found, expected = ([line["loss"] for line in lines(folder)] for folder in (out, whole))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_auto_takes_as_many_rows_as_fit(
    place: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a whole update does, so that fewer rows are not predicted; the run is the same."""
    said: list[str] = []
    asked: list[int] = []

    def noted(base: Any, recipe: Recipe, size: tuple[int, int], rows: int, shares: int) -> Memory:
        asked.append(rows)
        return predict_memory(base, recipe, size, rows, shares)

    monkeypatch.setattr(preflight, "predict_memory", noted)
    recipe = short(place, tmp_path / "output", train={"steps": 3, "micro_batch": "auto"})
    assert train(recipe, say=said.append).metrics["loss"] == pytest.approx(lines(whole)[0]["loss"], rel=1e-4)
    assert "train.micro_batch = 4 fits into memory" in said
    assert asked == [4]


@pytest.mark.slow
def test_cached_or_not_the_run_is_the_same(place: Path, whole: Path, tmp_path: Path) -> None:
    """Without caches the losses are those of the cached run, up to the cache's 16 bits."""
    train(short(place, tmp_path / "output", cache={"latents": False, "text": False}))
    found, expected = ([line["loss"] for line in lines(folder)] for folder in (tmp_path / "output", whole))
    assert found == pytest.approx(expected, rel=2e-3)


def test_another_recipe_does_not_go_on(place: Path, whole: Path) -> None:
    """The folder of another run is refused with the difference, and stays as it is."""
    with pytest.raises(CheckpointError, match=r"train\.lr was 0\.001, is 0\.002"):
        train(short(place, whole, train={"lr": 2e-3}))
    assert (whole / "training.json").exists()


def test_other_base_weights_do_not_go_on(place: Path, whole: Path, tmp_path: Path) -> None:
    """A base that has changed under its name is refused, and the part that has changed is named."""
    out = tmp_path / "output"
    shutil.copytree(whole / "checkpoints", out / "checkpoints")
    shutil.copy(whole / "recipe.toml", out)
    changed = save_base(tmp_path / "base", seed=1)
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.rmtree(changed / part)
        shutil.copytree(place / "base" / part, changed / part)
    own, kept = place / "base", place / "kept"
    own.rename(kept)
    changed.rename(own)
    try:
        with pytest.raises(CheckpointError, match=r"trained on a base with another UNet.*model\.revision"):
            train(short(place, out))
    finally:
        own.rename(changed)
        kept.rename(own)


def test_a_folder_of_other_things_is_left_alone(place: Path, tmp_path: Path) -> None:
    """Nothing is written beside a user's own files."""
    (tmp_path / "thesis.doc").write_text("")
    with pytest.raises(CheckpointError, match="is not empty and holds no run"):
        train(make_recipe(place, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_a_run_is_not_kept_in_its_dataset(place: Path) -> None:
    """Its tables and pictures would be taken for rows: refused by the dry run and the run, before the folder is made."""
    inside = Path(make_recipe(place, place).data.path) / "run"
    for command in (train, plan_training):
        with pytest.raises(CheckpointError, match=f"save.dir {inside} lies in the dataset"):
            command(make_recipe(place, inside))
    assert not inside.exists()


def test_a_loss_that_is_no_number_stops_with_its_rows(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned: list[list[str]]
) -> None:
    """The keys of the rows are named, and nothing of it is saved."""
    from trainer.data.split import Split

    batch, calls = Split.batch, iter(range(1000))

    def poisoned(self: Split, sampled: Any) -> Batch:
        made = batch(self, sampled)
        if self.training and self.latents and next(calls) == 15 and made.latents:
            made.latents.mean[1] = float("nan")
        return made

    monkeypatch.setattr(Split, "batch", poisoned)
    with pytest.raises(TrainingStopped, match="not a finite number for") as caught:
        train(short(place, tmp_path / "output"))
    assert learned[15][1] in str(caught.value)
    assert [path.name for path in (tmp_path / "output" / "checkpoints").iterdir()] == ["00000006"]


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoints_before(place: Path, whole: Path, tmp_path: Path) -> None:
    """On a small tmpfs: an error with its remedy, no half checkpoint; with room made, the run ends as any other."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}")
    recipe, filler = short(place, small / "output", save={"keep": 1}), small / "filler"

    def fill(what: str, done: int, total: int) -> None:
        if (what, done) == ("updates", 9):
            while not (before := small / "output" / "checkpoints" / "00000006").exists():  # a thread writes it
                time.sleep(0.01)
            half = sum(file.stat().st_size for file in before.rglob("*")) // 2
            filler.write_bytes(bytes(shutil.disk_usage(small).free - half))

    try:
        with pytest.raises(TrainingStopped, match=r"checkpoint of update 12 could not be written: .*Make room"):
            train(recipe, progress=fill)
        assert [path.name for path in (small / "output" / "checkpoints").iterdir()] == ["00000006"]
        filler.unlink()
        train(recipe)
        assert equal(weights(small / "output"), weights(whole))
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)  # safetensors may still have a file mapped


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(place: Path, warm: Warm, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and a cluster's SIGTERM: a checkpoint of the very update, exit code 1, no stack trace; then it goes on."""
    out, file = tmp_path / "output", tmp_path / "recipe.toml"
    file.write_text(dump_recipe(make_recipe(place, out, train={"steps": 20_000}, save={"every": 100_000})))
    process = warm.start(tmp_path, "trainer", file)
    while process.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
    os.kill(process.pid, number)
    code, errors = process.wait(), process.said("err")
    assert code == 1, errors
    assert "stopping after this update" in errors
    assert "Traceback" not in errors
    (saved,) = (out / "checkpoints").iterdir()
    done = int(saved.name)
    assert done >= 5
    said: list[str] = []
    result = train(make_recipe(place, out, train={"steps": done + 2}), say=said.append)
    assert f"going on from update {done}" in said
    assert result.updates == done + 2


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(place: Path, whole: Path, warm: Warm, tmp_path: Path) -> None:
    """Two CPUs (gloo), each with half of every update: the same losses and weights, and one goes on where they stopped."""
    out = tmp_path / "output"
    task = run_task(tmp_path, short(place, out, eval={"every": 12, "samples": 1}))
    code, said = on_processes(warm, tmp_path, 2, task)
    assert code == 0, said[-2000:]
    assert json.loads((out / "training.json").read_text())["processes"] == 2
    found, expected = ([line["loss"] for line in lines(folder) if "loss" in line] for folder in (out, whole))
    assert found == pytest.approx(expected, rel=1e-4)
    ours, theirs = weights(out / "raw"), weights(whole / "raw")
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 5e-4
    assert any("condition_gap" in line for line in lines(out))
    assert len(list((out / "samples").iterdir())) == 2
    one = train(short(place, out, train={"steps": 14}))
    assert one.updates == 14  # one process goes on where two stopped
