"""AdamW with 8-bit states, by bitsandbytes itself: close to the plain one, and as exact when a run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.learners import RATE, make_batch, make_learner, split, weights
from support.trainer_models import save_base

from trainer.errors import MachineError
from trainer.recipe.recipe import Recipe, Train
from trainer.training import optimizer
from trainer.training.machine import make_accelerator
from trainer.training.optimizer import make_optimizer
from trainer.training.state import read_state


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bitsandbytes", reason="needs the package bitsandbytes")
    return save_base(tmp_path_factory.mktemp("base") / "sd15")


def test_its_states_take_a_byte_each(base: Path) -> None:
    """Two bytes a weight instead of eight, as the prediction of memory counts; twenty steps stay near plain AdamW."""
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(64, 128))
    theirs = torch.nn.Parameter(ours.detach().clone())
    small = make_optimizer(Train(optimizer="adamw8bit", lr=1e-3), [ours])
    plain = make_optimizer(Train(lr=1e-3), [theirs])
    for _ in range(20):
        ours.grad = torch.randn_like(ours)
        theirs.grad = ours.grad.clone()
        small.step()
        plain.step()
    states = [state for name, state in small.state[ours].items() if name in ("state1", "state2")]
    assert [(state.dtype, state.numel()) for state in states] == [(torch.uint8, ours.numel())] * 2
    assert (ours - theirs).abs().max() < 0.1 * 20 * 1e-3  # a tenth of the way that each weight could have gone


@pytest.mark.slow
def test_a_saved_learner_goes_on_exactly(base: Path, tmp_path: Path) -> None:
    """One update, saved, loaded by a new learner, and another: the weights of two updates, bit for bit."""
    whole, first = (make_learner(base, optimizer="adamw8bit") for _ in range(2))
    batch = make_batch(whole.base)
    for _ in range(2):
        whole.step([batch], RATE)
    first.step([batch], RATE)
    first.state().write(tmp_path)
    second = make_learner(base, optimizer="adamw8bit")
    second.restore(read_state(tmp_path, second.controlnet), update=1)
    second.step([batch], RATE)
    assert all(a.equal(b) for a, b in zip(weights(second), weights(whole)))


def test_a_rehearsal_leaves_no_trace(base: Path) -> None:
    """After a trial update the next one is as without it: the 8-bit states start from nothing."""
    results = []
    for rehearsed in (False, True):
        learner = make_learner(base, micro_batch=2, optimizer="adamw8bit")
        batch = make_batch(learner.base)
        if rehearsed:
            learner.rehearse(batch)
        learner.step(split(batch, 2), RATE)
        results.append(weights(learner))
    assert all(a.equal(b) for a, b in zip(*results))


def test_without_its_package_it_is_refused(monkeypatch: Any) -> None:
    """Before anything is loaded, with both ways out."""
    monkeypatch.setattr(optimizer, "find_spec", lambda _: None)
    recipe = Recipe.model_validate({"train": {"optimizer": "adamw8bit", "device": "cpu"}, "log": {"tracker": "none"}})
    with pytest.raises(MachineError, match=r'needs bitsandbytes: pip install bitsandbytes, or say "adamw"'):
        make_accelerator(recipe)
