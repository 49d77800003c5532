"""A run that was stopped can be used, and another one begun from it: by its newest whole checkpoint, or by one that is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.trainer_runs import equal, lines, make_place, make_recipe, weights

from condprep.errors import UsageError
from trainer.errors import ModelError
from trainer.evaluation.evaluate import evaluate
from trainer.inference.checkpoint_folder import result_folder
from trainer.inference.pipeline import load_pipeline
from trainer.inference.single_file import export
from trainer.models.kinds import recorded_kinds
from trainer.recipe.toml import load_recipe
from trainer.training.fork import Fork, fork
from trainer.training.stop import Stop
from trainer.training.train import train

STEPS = {"train": {"steps": 8}, "save": {"every": 2, "push_to_hub": ""}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a dataset, and `output`: a run of 8 updates that was asked to stop at the fourth, with a checkpoint every 2."""
    root = make_place(tmp_path_factory.mktemp("stopped"), rows=16)
    asked: list[str] = []

    def count(stage: str, done: int, total: int) -> None:
        asked.extend(["stop"] * (stage == "updates" and done == 4))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Stop, "agreed", lambda *_, **__: bool(asked))
        assert not train(make_recipe(root, root / "output", **STEPS), progress=count).finished
    return root


@pytest.fixture
def output(place: Path, tmp_path: Path) -> Path:
    """A copy, to be harmed."""
    return Path(shutil.copytree(place / "output", tmp_path / "output"))


def learned(pipeline: object) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = pipeline.controlnet.state_dict()  # type: ignore[attr-defined]
    return found


def test_a_stopped_run_draws_with_its_newest_checkpoint(place: Path) -> None:
    """The averaged weights of update 4, and that is said; the last ones and those of update 2 where they are named."""
    said: list[str] = []
    output = place / "output"
    newest, older = (output / "checkpoints" / name for name in ("00000004", "00000002"))
    assert equal(learned(load_pipeline(output, say=said.append)), weights(newest / "ema"))
    assert said == [f"{output} is not finished: this is its checkpoint of update 4"]
    assert equal(learned(load_pipeline(output, weights="raw")), weights(newest / "raw"))
    assert equal(learned(load_pipeline(output, checkpoint=2)), weights(older / "ema"))


def test_a_checkpoint_is_exported_and_evaluated(place: Path, tmp_path: Path) -> None:
    """Into the very weights, and with its own figures: everything that takes a result takes it."""
    output = place / "output"
    file = export(output, tmp_path / "one.safetensors", to="single-file", checkpoint=2, precision="fp32")
    assert equal(load_file(file), weights(output / "checkpoints" / "00000002" / "ema"))
    found = evaluate(output, rows=2, sampler_steps=1, checkpoint=2)
    assert "train rows" in found.arms


def test_a_damaged_newest_checkpoint_is_not_taken(output: Path) -> None:
    """The one before is; one that was named is refused with what is wrong."""
    (output / "checkpoints" / "00000004" / "optimizer.bin").write_bytes(b"half")
    assert result_folder(output).name == "00000002"
    with pytest.raises(ModelError, match=r"00000004 is damaged: optimizer\.bin has 4 bytes"):
        result_folder(output, 4)


def test_what_is_not_there_is_answered_with_what_is(place: Path, tmp_path: Path) -> None:
    """Another update, and a folder without any run."""
    with pytest.raises(ModelError, match="has no checkpoint of update 3; there are 2, 4"):
        load_pipeline(place / "output", checkpoint=3)
    with pytest.raises(ModelError, match="holds no result of the trainer"):
        load_pipeline(tmp_path)


def test_a_result_is_taken_before_checkpoints(output: Path) -> None:
    """The result where the run is finished; that it has gone on since is said, with the words that take the newest."""
    (output / "training.json").write_text('{"updates": 2}')
    said: list[str] = []
    assert result_folder(output, say=said.append) == output
    assert said == [f"{output} was finished before update 4, and has gone on: --checkpoint 4 takes that"]
    assert result_folder(output, 4).name == "00000004"


def test_a_fork_begins_with_the_weights_and_nothing_else(place: Path, tmp_path: Path) -> None:
    """Its first update is 1, at a rate of the new warm-up; what is taken over, changed and not taken over is said."""
    said: list[str] = []
    settings = ["train.lr=1e-5", "train.steps=2", "log.every=1"]
    recipe = fork(place / "output", settings, out=tmp_path / "new", say=said.append)
    start = tmp_path / "new" / "start"
    assert equal(weights(start), weights(place / "output" / "checkpoints" / "00000004" / "ema"))
    assert recorded_kinds(str(start)) == ("canny",), "kinds in another order would be taken for each other"
    assert (recipe.model.init, recipe.train.lr, recipe.data.resolution) == (str(start), 1e-5, 64)
    assert load_recipe(tmp_path / "new" / "recipe.toml") == recipe
    assert "the averaged weights of update 4" in said[0]
    assert "train.lr = 1e-05" in said[0]
    assert "not taken over: the optimizer's state, the count of updates" in said[1]
    result = train(recipe)
    assert (result.updates, result.finished) == (2, True)
    assert [line["lr"] for line in lines(tmp_path / "new")] == pytest.approx([2.5e-6, 5e-6])
    moved = (weights(tmp_path / "new" / "raw")[name] - weight for name, weight in weights(start).items())
    assert 0 < max(change.abs().max().item() for change in moved) < 1e-4


def test_the_same_fork_goes_on_and_another_is_refused(output: Path) -> None:
    """Repeated, it keeps the weights that it began with, though the other run went on; another recipe, or update, needs a folder."""
    fork(output, ["train.lr=1e-5"])
    start = output.with_name("output-fork") / "start"
    before = weights(start)
    shutil.rmtree(output / "checkpoints" / "00000004")
    fork(output, ["train.lr=1e-5"])
    assert equal(weights(start), before)
    for settings, checkpoint in ((["train.lr=1e-6"], None), (["train.lr=1e-5"], 2)):
        with pytest.raises(
            UsageError, match=r"holds another run; choose another --out, or go on with it: python -m trainer"
        ):
            fork(output, settings, checkpoint=checkpoint)


@pytest.mark.slow
def test_a_fork_pushes_nothing_over_the_other_result(output: Path) -> None:
    """The repository on the Hub, and where to go on from, stay the other run's; a new one can be named."""
    text = (output / "recipe.toml").read_text()
    (output / "recipe.toml").write_text(text.replace('push_to_hub = ""', 'push_to_hub = "me/it"'))
    assert Fork.of(output, []).recipe.save.push_to_hub == ""
    assert Fork.of(output, ["save.push_to_hub=me/new"]).recipe.save.push_to_hub == "me/new"


@pytest.mark.parametrize("setting", ["save.dir=elsewhere", "model.init=unet", "model.embedder=usual", "model.blocks=2"])
def test_what_makes_a_fork_is_not_set(setting: str, place: Path) -> None:
    """Its folder is --out, its beginning the weights of the run."""
    with pytest.raises(UsageError, match="--out"):
        Fork.of(place / "output", [setting])


def test_a_planned_fork_writes_nothing(place: Path, tmp_path: Path) -> None:
    """What is planned begins with the weights where they lie."""
    planned = Fork.of(place / "output", [], tmp_path / "new").rehearsed
    assert Path(planned.model.init).name == "ema"
    assert not (tmp_path / "new").exists()
