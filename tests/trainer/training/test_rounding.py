"""Weights in bf16: what rounding at random promises, and that such a learner is saved, resumed and rehearsed like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.learners import RATE, make_batch, make_learner, split, stir, weights
from support.trainer_models import save_base

from trainer.errors import RecipeError
from trainer.recipe.recipe import Train
from trainer.recipe.toml import parse_recipe
from trainer.training import rounding
from trainer.training.optimizer import PACKAGES, make_optimizer
from trainer.training.rounding import rounded_at_random
from trainer.training.state import read_state

BF16 = {"weights": "bf16", "precision": "bf16"}
SIDE = 32  # of a picture, pixels: where a CPU has no bf16, most of the time goes into them


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "sd15")


@pytest.fixture(params=["adamw", "adamw8bit", "adafactor"])
def optimizer(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"needs the package {PACKAGES[name]}")
    return name


def test_a_number_becomes_one_of_its_neighbours_and_is_right_on_average() -> None:
    """Of 100,000 draws each is the bf16 below or above, and their mean lies within five standard errors of the number."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.tensor([1.0, 1 + 2**-10, -3 - 2**-8, 1e-5 / 3, 12345.678, 1e-40])
    drawn = rounded_at_random(numbers.repeat(100_000, 1), generator)
    assert drawn.dtype == torch.bfloat16
    for number, found in zip(numbers, drawn.double().T):
        below, above = found.min(), found.max()
        assert below <= number <= above
        assert ((found == below) | (found == above)).all()
        share = 0.0 if below == above else float((number - below) / (above - below))
        error = (share * (1 - share) / len(found)) ** 0.5 * float(above - below)
        assert abs(float(found.mean() - number)) <= 5 * error
        assert above.bfloat16() == below.bfloat16() or torch.nextafter(below.bfloat16(), above.bfloat16()) == above


def test_what_bf16_can_say_stays() -> None:
    """Every finite bf16, zeros of both signs and the infinities: no bit changes, whatever is drawn."""
    all_of_them = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    all_of_them = all_of_them[~all_of_them.isnan()]
    rounded = rounded_at_random(all_of_them.float(), torch.Generator().manual_seed(1))
    assert rounded.view(torch.int16).equal(all_of_them.view(torch.int16))


def test_steps_too_small_for_bf16_add_up() -> None:
    """500 steps of 1e-5, of which a weight of 1 would show none: on average it has gone the way that fp32 goes."""

    def gone(of: str) -> torch.Tensor:
        train = Train(optimizer="adamw", lr=1e-5, weight_decay=0.0, weights=of)  # type: ignore[arg-type]
        weight = torch.nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16 if of == "bf16" else torch.float32))
        optimizer = make_optimizer(train, [weight])
        for _ in range(500):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        return 1 - weight.detach().double().mean()

    assert gone("fp32") == pytest.approx(5e-3, rel=0.01)
    assert gone("bf16") == pytest.approx(5e-3, rel=0.05)
    assert (torch.ones(1, dtype=torch.bfloat16) - 1e-5).item() == 1  # what the rounding of bf16 itself would do


def test_how_many_weights_are_fp32_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, or all: the same bits."""

    def updated(at_once: int) -> list[torch.Tensor]:
        monkeypatch.setattr(rounding, "AT_ONCE", at_once)
        torch.manual_seed(0)
        made = [torch.nn.Parameter(torch.randn(shape).bfloat16()) for shape in ((30, 20), (7,), (8, 4, 3, 3))]
        optimizer = make_optimizer(Train(lr=1e-2, weights="bf16"), made)
        for _ in range(3):
            for weight in made:
                weight.grad = torch.randn_like(weight)
            optimizer.step()
        return [weight.detach() for weight in made]

    assert all(a.equal(b) for a, b in zip(updated(1), updated(2**30)))


@pytest.mark.slow
def test_it_learns_as_fp32_does(base: Path, optimizer: str) -> None:
    """Ten updates on one batch lower its loss as much as with fp32 weights, within a tenth; the weights are bf16."""
    losses = {}
    for name, settings in (("fp32", {"precision": "bf16"}), ("bf16", BF16)):
        learner = make_learner(base, optimizer=optimizer, **settings)
        batch = make_batch(learner.base, side=SIDE)
        steps = [learner.step([batch], RATE).losses.mean().item() for _ in range(10)]
        losses[name] = steps[0] - steps[-1]
    assert {weight.dtype for weight in weights(learner)} == {torch.bfloat16}
    assert {weight.dtype for weight in learner.average} == {torch.float32}
    assert losses["fp32"] > 0
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.1)


@pytest.mark.slow
def test_a_saved_learner_goes_on_exactly(base: Path, optimizer: str, tmp_path: Path) -> None:
    """Two updates, saved, loaded by a new learner, and two more: weights and average of four updates, bit for bit."""
    whole, first, second = (make_learner(base, optimizer=optimizer, **BF16) for _ in range(3))
    batch = make_batch(whole.base, side=SIDE)
    for _ in range(4):
        whole.step([batch], RATE)
    for _ in range(2):
        first.step([batch], RATE)
    first.state().copied().write(tmp_path)
    stir(second.controlnet)
    second.restore(read_state(tmp_path, second.controlnet), update=2)
    for _ in range(2):
        second.step([batch], RATE)
    assert all(a.equal(b) for a, b in zip(weights(second), weights(whole)))
    assert all(a.equal(b) for a, b in zip(second.average, whole.average))


@pytest.mark.slow
def test_a_rehearsal_leaves_no_trace(base: Path, optimizer: str) -> None:
    """After a trial update the next ones are as without it: not even the random numbers are others."""
    results = []
    for rehearsed in (False, True):
        learner = make_learner(base, optimizer=optimizer, **BF16)
        batch = make_batch(learner.base, side=SIDE)
        if rehearsed:
            learner.rehearse(batch)
        for _ in range(2):
            learner.step([batch], RATE)
        results.append(weights(learner))
    assert all(a.equal(b) for a, b in zip(*results))


def test_passes_add_up(base: Path) -> None:
    """Two passes of two rows make the update of one pass of four, within what bf16 rounds of their gradients."""
    norms = []
    for rows in (4, 2):
        learner = make_learner(base, **BF16, micro_batch=rows)
        norms.append(learner.step(split(make_batch(learner.base, side=SIDE), rows), RATE).norm)
    assert float(norms[1]) == pytest.approx(float(norms[0]), rel=0.02)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"weights": "bf16", "precision": "fp32"}, r'train\.weights = "bf16" needs train\.precision = "bf16", not "fp32"'),
        ({"weights": "bf16", "optimizer": "prodigy", "lr": 1.0}, r'not for prodigy.*: say "fp32"'),
        ({"weights": "fp8"}, r"train\.weights = .fp8."),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(train: dict[str, Any], message: str) -> None:
    """By the recipe itself, with the way out."""
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"train": train})
