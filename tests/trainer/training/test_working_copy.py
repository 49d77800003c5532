"""The bf16 weights that an update computes with: they change nothing, not by a bit, of what autocast would have done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.flow_models import FLOWS, save_flow_base
from support.learners import RATE, make_batch, make_learner, split, stir, weights
from support.trainer_models import save_base

from condprep.runtime.storages import peak_of
from trainer.models.families import load_base
from trainer.recipe.recipe import Model, Recipe, Train
from trainer.training import step
from trainer.training.memory import predict_memory
from trainer.training.state import read_state
from trainer.training.step import Learner
from trainer.training.working_copy import WorkingCopy, is_wanted
from trainer.types import Batch


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {family: save_base(tmp_path_factory.mktemp("bases") / family, family) for family in ("sd15", "sdxl")}
    return made | {family: save_flow_base(tmp_path_factory.mktemp("bases") / family, family) for family in FLOWS}


def learner(base: Path, slim: bool = True) -> Learner:
    return make_learner(base, slim=slim, precision="bf16", batch=2, micro_batch=1)


def passes(one: Learner) -> list[Batch]:
    """Of an update, a row each."""
    return split(make_batch(one.base, rows=2), 1)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sdxl", *FLOWS])
def test_an_update_is_that_of_autocast(bases: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates of two passes: losses, norms, weights and average are equal, bit for bit."""
    slim = family not in FLOWS
    ours = learner(bases[family], slim)
    monkeypatch.setattr(step, "is_wanted", lambda *_: False)
    autocast = learner(bases[family], slim)
    assert ours.working is not None
    assert autocast.working is None
    for _ in range(2):
        found, expected = (one.step(passes(one), RATE) for one in (ours, autocast))
        assert found.losses.equal(expected.losses)
        assert found.norm.equal(expected.norm)
    for which in ("raw", "best"):
        assert all(a.equal(b) for a, b in zip(ours.weights(which), autocast.weights(which)))
        assert {weight.dtype for weight in ours.weights(which)} == {torch.float32}


def test_an_update_computes_with_the_weights_of_now(bases: dict[str, Path], tmp_path: Path) -> None:
    """After a resume, and after a rehearsal, an update is that of the run that has not been interrupted."""
    whole, first = learner(bases["sd15"]), learner(bases["sd15"])
    for one in (whole, first):
        one.step(passes(one), RATE)
    first.state().write(tmp_path)
    second = learner(bases["sd15"])
    stir(second.controlnet)
    second.restore(read_state(tmp_path, second.controlnet), update=1)
    second.rehearse(make_batch(second.base, rows=2))
    second.restore(read_state(tmp_path, second.controlnet), update=1)
    for one in (whole, second):
        one.step(passes(one), RATE)
    assert all(a.equal(b) for a, b in zip(weights(second), weights(whole)))


def test_nothing_is_kept_twice(bases: dict[str, Path]) -> None:
    """Of a weight that autocast does not narrow there is one tensor, and no bf16 gradient outlives its backward pass."""
    one = learner(bases["sd15"])
    assert one.working is not None
    one.step(passes(one), RATE)
    wide = dict(one.controlnet.named_parameters())
    narrow = {name: weight for name, weight in one.working.model.named_parameters() if weight is not wide[name]}
    assert {weight.dtype for weight in narrow.values()} == {torch.bfloat16}
    assert {name for name in wide if "norm" in name and not name.endswith("proj.weight")}.isdisjoint(narrow)
    assert all(weight.grad is None for weight in narrow.values())


@pytest.mark.slow
def test_its_memory_is_predicted(bases: dict[str, Path]) -> None:
    """Two bytes for each weight that it copies, and a pass that holds what a real one holds, autocast's casts left out."""
    base = load_base(Model(base=str(bases["sd15"])))
    recipe = Recipe.model_validate({"model": {"base": str(bases["sd15"])}})
    copy, batch = WorkingCopy(base.new_controlnet("unet")), make_batch(base, 2)
    base.denoiser.to(torch.bfloat16)
    noisy, timesteps = torch.zeros(2, 4, 8, 8, dtype=torch.bfloat16), torch.zeros(2).long()

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            base.predict(copy.model, noisy, timesteps, batch).float().square().mean().backward()

    found = predict_memory(base, recipe, (64, 64), 2)
    fewer = predict_memory(
        base, recipe.model_copy(update={"train": recipe.train.model_copy(update={"weights": "bf16"})}), (64, 64), 2
    )
    weights = sum(weight.numel() for weight in copy.model.parameters())
    assert found.models - fewer.models == copy.nbytes + 2 * weights
    assert found.passes == pytest.approx(peak_of(run), rel=0.01)


@pytest.mark.parametrize(
    ("train", "processes", "wanted"),
    [
        ({}, 1, True),
        ({}, 2, False),
        ({"gradient_checkpointing": True}, 1, False),
        ({"weights": "bf16"}, 1, False),
        ({"precision": "fp32"}, 1, False),
        ({"precision": "fp16"}, 1, False),
    ],
)
def test_where_it_would_cost_more_than_it_saves_there_is_none(
    train: dict[str, Any], processes: int, wanted: bool
) -> None:
    """Several processes, checkpointing, weights in bf16, and other precisions compute as autocast does."""
    assert is_wanted(Train.model_validate(train), processes) is wanted
