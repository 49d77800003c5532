"""Every optimizer of a recipe: what it keeps is counted, saved and found again, and a rehearsal leaves it as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from support.learners import RATE, make_batch, make_learner, stir, weights
from support.trainer_models import save_base

from trainer.errors import MachineError, RecipeError
from trainer.recipe.recipe import Optimizer, Train
from trainer.recipe.toml import parse_recipe
from trainer.training import optimizer as optimizers
from trainer.training.optimizer import PACKAGES, check_optimizer, effective_rate, make_optimizer, state_bytes
from trainer.training.state import read_state

FURTHER = ("prodigy", "adafactor")  # adamw has its tests in test_step.py, adamw8bit in test_optimizer_8bit.py
SHAPES = ((8, 6, 3, 3), (8, 6, 1, 1), (10, 4), (12,))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "sd15")


@pytest.fixture(autouse=True)
def installed(request: Any) -> None:
    """A package that the test's optimizer needs."""
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"needs the package {PACKAGES[name]}")


def rate(name: str) -> float:
    return 1.0 if name == "prodigy" else RATE


def learned(name: Any) -> tuple[list[float], list[float]]:
    """Losses and rates of 300 steps of a plain least-squares problem."""
    torch.manual_seed(0)
    target, weight = torch.randn(6, 5), torch.nn.Parameter(torch.randn(6, 5))
    optimizer = make_optimizer(Train(optimizer=name, lr=1.0 if name == "prodigy" else 0.03), [weight])
    losses, rates = [], []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (weight - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        rates.append(effective_rate(optimizer))
    return losses, rates


@pytest.mark.parametrize("name", FURTHER)
def test_it_learns(name: str) -> None:
    """A plain least-squares problem is a hundred times better after 300 steps."""
    losses, _ = learned(name)
    assert losses[-1] < losses[0] / 100


@pytest.mark.parametrize("name", ["prodigy"])
def test_prodigy_finds_its_rate(name: str) -> None:
    """What is written down is its own estimate, which only grows, from almost nothing to what a person would choose."""
    _, rates = learned(name)
    assert rates[0] <= 1e-5
    assert rates == sorted(rates)
    assert 1e-3 < rates[-1] < 10


@pytest.mark.parametrize("name", ["adamw", *FURTHER])
def test_what_it_keeps_is_predicted(name: str) -> None:
    """The bytes of its state's tensors, for convolutions, matrices and vectors; single numbers do not count."""
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = make_optimizer(Train(optimizer=name, lr=1.0), parameters)  # type: ignore[arg-type]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.1)
    optimizer.step()
    kept = [one for state in optimizer.state.values() for one in state.values() if isinstance(one, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in kept if tensor.dim()) == state_bytes(name, SHAPES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FURTHER)
def test_a_saved_learner_goes_on_exactly(name: str, base: Path, tmp_path: Path) -> None:
    """Two updates, saved, loaded by a new learner, and two more: the weights of four updates, bit for bit, and the rate."""
    whole, first, second = (make_learner(base, optimizer=name, lr=rate(name)) for _ in range(3))
    batch = make_batch(whole.base)
    for _ in range(4):
        whole.step([batch], rate(name))
    for _ in range(2):
        first.step([batch], rate(name))
    first.state().copied().write(tmp_path)
    stir(second.controlnet)
    second.restore(read_state(tmp_path, second.controlnet), update=2)
    for _ in range(2):
        second.step([batch], rate(name))
    assert all(a.equal(b) for a, b in zip(weights(second), weights(whole)))
    assert second.rate == whole.rate


@pytest.mark.slow
@pytest.mark.parametrize("name", FURTHER)
def test_a_rehearsal_leaves_no_trace(name: str, base: Path) -> None:
    """After a trial update the next ones are as without it: neither state nor what the optimizer says of itself remains."""
    results = []
    for rehearsed in (False, True):
        learner = make_learner(base, optimizer=name, lr=rate(name))
        batch = make_batch(learner.base)
        if rehearsed:
            learner.rehearse(batch)
        for _ in range(2):
            learner.step([batch], rate(name))
        results.append(weights(learner))
    assert all(a.equal(b) for a, b in zip(*results))


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_a_package_that_is_missing_is_named(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded, with both ways out; those that need none are fine."""
    monkeypatch.setattr(optimizers, "find_spec", lambda _: None)
    train = Train(optimizer=name)
    if name in PACKAGES:
        with pytest.raises(MachineError, match=rf'"{name}" needs (\w+): pip install \1, or say "adamw"'):
            check_optimizer(train)
    else:
        check_optimizer(train)


def test_a_slip_in_an_optimizer_is_answered() -> None:
    """The nearest name; and a rate of AdamW is not taken for prodigy's factor."""
    with pytest.raises(RecipeError, match=r'train\.optimizer = .prodgy.*did you mean "prodigy"\?'):
        parse_recipe({"train": {"optimizer": "prodgy"}})
    with pytest.raises(RecipeError, match=r"train\.lr = 1e-05 is a factor .*say train\.lr = 1\.0"):
        parse_recipe({"train": {"optimizer": "prodigy"}})
