"""What a run needs of its machine is checked before anything is loaded; the learning rate is a function of the update."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DistributedType
from diffusers.optimization import get_polynomial_decay_schedule_with_warmup, get_scheduler

from trainer.errors import MachineError, TrainingStopped
from trainer.recipe.recipe import Recipe
from trainer.training.journal import Journal, Meter
from trainer.training.machine import make_accelerator
from trainer.training.optimizer import learning_rate, make_optimizer
from trainer.training.step import StepResult

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")


def recipe(out: Path | str = "output", **tables: dict[str, Any]) -> Recipe:
    values: dict[str, dict[str, Any]] = {
        "train": {"device": "cpu", "precision": "fp32", "batch": 4, "micro_batch": 2},
        "log": {"tracker": "none"},
        "save": {"dir": str(out)},
    }
    return Recipe.model_validate({name: values.get(name, {}) | tables.get(name, {}) for name in {*values, *tables}})


def test_a_gpu_without_bf16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything is loaded, with what to say instead; a CPU, which has it, is not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    with pytest.raises(MachineError, match=r'train\.precision = "bf16": this GPU has none of its own; say "fp16"'):
        make_accelerator(Recipe.model_validate({"train": {"device": "cuda"}, "log": {"tracker": "none"}}))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        pytest.param({"device": "cuda"}, r'train\.device = "cuda", but PyTorch finds no GPU', marks=needs_no_gpu),
        ({"precision": "fp16"}, r'train\.precision = "fp16" needs a GPU'),
    ],
)
def test_what_the_machine_lacks_is_said(train: dict[str, Any], message: str) -> None:
    """The recipe's key and value, and what to say instead."""
    with pytest.raises(MachineError, match=message):
        make_accelerator(recipe(train=train))


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_a_shared_out_model_is_refused(kind: DistributedType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that is configured for it is not trained as something else: the message says what to launch with."""
    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda _: kind))
    with pytest.raises(MachineError, match=rf"configured for {kind.value}, .*--multi_gpu.*adamw8bit"):
        make_accelerator(recipe())


def test_two_runs_of_one_process_may_differ() -> None:
    """Precision is accelerate's global state; a second run does not inherit the first one's."""
    for precision, expected in (("bf16", "bf16"), ("fp32", "no")):
        assert make_accelerator(recipe(train={"precision": precision})).mixed_precision == expected


@pytest.mark.parametrize("schedule", ["constant_with_warmup", "linear", "cosine"])
def test_the_schedules_are_those_of_diffusers_half_a_step_later(schedule: str) -> None:
    """Between diffusers' rates before and after the step: no update is made with the rate 0."""
    train = recipe(train={"lr": 1e-3, "schedule": schedule, "warmup": 10}).train
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    (factor,) = get_scheduler(schedule, optimizer, num_warmup_steps=10, num_training_steps=50).lr_lambdas
    for update in range(1, 51):
        rate = learning_rate(train, update, 50)
        low, high = sorted(1e-3 * factor(step) for step in (update - 1, update))
        assert low - 1e-12 <= rate <= high + 1e-12
        assert rate > 0
    assert learning_rate(train, 10, 50) == 1e-3


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_polynomial_is_that_of_diffusers_half_a_step_later(power: float) -> None:
    """As the others, of any power; the power 1 is linear."""
    train = recipe(train={"lr": 1e-3, "schedule": "polynomial", "warmup": 10, "power": power}).train
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = get_polynomial_decay_schedule_with_warmup(optimizer, 10, 50, lr_end=0.0, power=power)
    (factor,) = scheduler.lr_lambdas
    linear = recipe(train={"lr": 1e-3, "schedule": "linear", "warmup": 10}).train
    for update in range(1, 51):
        rate = learning_rate(train, update, 50)
        low, high = sorted(1e-3 * factor(step) for step in (update - 1, update))
        assert low - 1e-12 <= rate <= high + 1e-12
        assert rate > 0
        assert (rate == pytest.approx(learning_rate(linear, update, 50))) == (power == 1 or update <= 11)


def test_a_constant_rate_has_no_warm_up() -> None:
    """It is the peak from the first update on."""
    train = recipe(train={"schedule": "constant", "lr": 2e-4, "warmup": 100}).train
    assert {learning_rate(train, update, 10) for update in (1, 5, 10)} == {2e-4}


def test_the_fused_optimizer_is_adamw() -> None:
    """Five steps equal torch's plain loop, with the recipe's betas, epsilon and decay."""
    train = recipe(train={"betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1, "lr": 1e-2}).train
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 10)) for _ in range(2))
    settings: dict[str, Any] = {"lr": 1e-2, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1, "foreach": False}
    pairs = [(ours, make_optimizer(train, [ours])), (theirs, torch.optim.AdamW([theirs], **settings))]
    for step in range(5):
        for parameter, optimizer in pairs:
            parameter.grad = (parameter.detach() * step).cos()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_a_line_has_the_means_of_its_rows() -> None:
    """Losses over rows, not over updates; gradients' norms over updates, without those whose step a scaler has skipped."""
    meter = Meter()
    meter.add(StepResult(["a", "b"], torch.tensor([1.0, 2.0]), torch.tensor(1.0)))
    meter.add(StepResult(["c"], torch.tensor([3.0]), torch.tensor(float("inf"))))
    meter.add(StepResult(["d"], torch.tensor([6.0]), torch.tensor(3.0)))
    accelerator = make_accelerator(recipe())
    with pytest.raises(TrainingStopped, match="norm is not a finite number"):  # without a scaler it is no overflow
        meter.read(accelerator)
    accelerator.scaler = torch.amp.GradScaler("cpu")
    found = meter.read(accelerator)
    assert (found["loss"], found["grad_norm"]) == (3.0, 2.0)
    assert meter.keys == []


def test_bad_rows_are_named() -> None:
    """Those rows alone whose loss is not a number."""
    meter = Meter()
    meter.add(StepResult(["a", "b", "c"], torch.tensor([1.0, float("nan"), float("inf")]), torch.tensor(1.0)))
    with pytest.raises(TrainingStopped, match="for b, c"):
        meter.read(make_accelerator(recipe()))


def test_a_journal_forgets_what_came_after_a_checkpoint(tmp_path: Path) -> None:
    """And a last line that was cut off in the middle."""
    accelerator, settings = make_accelerator(recipe(tmp_path)), recipe(tmp_path)
    journal = Journal(accelerator, settings)
    for update in (5, 10, 15):
        journal.write(update, {"loss": 1.0 / update})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 2')
    Journal(accelerator, settings, update=10, lines=2).write(11, {"loss": 0.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [5, 10, 11]
