"""train.compile: the same updates; each size of a batch is a graph of its own; what is only looked at is not compiled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from support.flow_models import FLOWS, save_flow_base
from support.learners import RATE, make_batch, make_learner, weights
from support.thorough import slow_ones
from support.trainer_models import build_dataset, save_base
from support.trainer_runs import make_recipe
from torch._dynamo.utils import counters

from trainer.errors import MachineError
from trainer.recipe.recipe import Recipe
from trainer.training.machine import make_accelerator
from trainer.training.step import Learner
from trainer.training.train import train


@pytest.fixture(autouse=True)
def afresh() -> None:
    torch.compiler.reset()
    counters.clear()


@pytest.fixture
def eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are found and counted, and run as they are."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_bucket_is_not_compiled_anew(tmp_path: Path) -> None:
    """After updates of two sizes all graphs there are have been made; updates of two further sizes make none."""
    learner = make_learner(save_base(tmp_path / "base"), compile=True)
    for side in (64, 96):
        learner.step([make_batch(learner.base, rows=2, side=side)], RATE)
    made = counters["stats"]["unique_graphs"]
    assert made > 2
    for side in (128, 160):
        learner.step([make_batch(learner.base, rows=2, side=side)], RATE)
    assert counters["stats"]["unique_graphs"] == made
    assert counters["graph_break"] == {}


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_what_is_only_looked_at_is_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All graphs of a run are made where an update is rehearsed before the first: none by validations, however many sizes those
    have, and none by updates between them. One kind of block is compiled, which stands for all."""
    save_base(tmp_path / "base")
    build_dataset(tmp_path / "ds", rows=12)
    made: list[int] = []

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            made.append(counters["stats"]["unique_graphs"])
            done = method(*arguments)
            made.append(counters["stats"]["unique_graphs"])
            return done

        return call

    monkeypatch.setattr("trainer.training.step.block_names", lambda _: {"ResnetBlock2D"})
    for name in ("rehearse", "step"):
        monkeypatch.setattr(Learner, name, counted(getattr(Learner, name)))
    settings: dict[str, Any] = {
        "train": {"steps": 2, "batch": 4, "micro_batch": 4, "compile": True},
        "eval": {"every": 1, "samples": 1, "loss_rows": 3},
    }
    train(make_recipe(tmp_path, tmp_path / "output", **settings))
    none, all_there_are, *later = [*made, counters["stats"]["unique_graphs"]]
    assert none == 0 < all_there_are
    assert len(later) >= 2 * 2 + 1
    assert {*later} == {all_there_are}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: g++")
@pytest.mark.skipif(not os.environ.get("CONDPREP_THOROUGH"), reason="minutes of g++; set CONDPREP_THOROUGH")
def test_a_compiled_update_is_the_plain_one(tmp_path: Path) -> None:
    """By inductor and g++: rows' losses, the gradients' norm and the weights of two updates agree to rounding."""
    base = save_base(tmp_path / "base")
    plain, compiled = (make_learner(base, eps=1e-3, compile=compile) for compile in (False, True))
    batch = make_batch(plain.base)
    for _ in range(2):
        expected, found = plain.step([batch], RATE), compiled.step([batch], RATE)
        torch.testing.assert_close(found.losses, expected.losses, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.norm, expected.norm, rtol=1e-4, atol=1e-6)
    assert counters["inductor"]  # it was not run eagerly instead
    for mine, theirs in zip(weights(compiled), weights(plain)):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("family", ["sd15", FLOWS[0], *slow_ones(FLOWS[1:])])
def test_every_family_has_blocks_to_compile(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the frozen network and of the ControlNet, and none that is a part of another one."""
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **_: compiled.append(block))
    base = save_flow_base(tmp_path, family) if family in FLOWS else save_base(tmp_path, family)
    learner = make_learner(base, compile=True)
    for network in (learner.base.denoiser, learner.controlnet):
        blocks = [block for block in compiled if any(block is one for one in network.modules())]
        assert blocks
        inner = [one for block in blocks for one in block.modules() if one is not block]
        assert not any(one is block for one in inner for block in blocks)


def test_without_a_compiler_it_is_refused(monkeypatch: Any) -> None:
    """Before anything is loaded, with both ways out."""
    monkeypatch.setattr("trainer.training.machine.which", lambda _: None)
    recipe = Recipe.model_validate({"train": {"compile": True, "device": "cpu"}, "log": {"tracker": "none"}})
    with pytest.raises(MachineError, match=r"train\.compile = true needs a C\+\+ compiler: install g\+\+"):
        make_accelerator(recipe)
