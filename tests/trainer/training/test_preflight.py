"""Before the first update: what fits is found by trying, and what does not fit is said with what would."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.trainer_models import save_base

from condprep.runtime.storages import peak_of
from trainer.errors import MachineError
from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Recipe
from trainer.training.memory import predict_memory
from trainer.training.preflight import check_disk, check_micro_batch, largest_micro_batch, micro_batch_sizes
from trainer.types import Batch


def device_with_room_for(rows: int) -> tuple[Callable[[int], None], list[int]]:
    """A rehearsal that runs out of memory above that many rows, and the sizes that were tried."""
    tried: list[int] = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return attempt, tried


def test_sizes_are_the_divisors_of_a_share() -> None:
    """Largest first, and each makes whole updates."""
    assert micro_batch_sizes(24, 2) == [12, 6, 4, 3, 2, 1]
    assert micro_batch_sizes(7, 1) == [7, 1]


def test_the_largest_size_that_fits_is_found() -> None:
    """From the top down; nothing smaller is tried than what fits."""
    attempt, tried = device_with_room_for(5)
    assert largest_micro_batch(attempt, micro_batch_sizes(16, 1)).size == 4
    assert tried == [16, 8, 4]


def test_a_size_that_does_not_fit_is_refused_with_the_one_that_does() -> None:
    """The message has the recipe's key, its value, and the value that was measured to fit."""
    attempt, _ = device_with_room_for(2)
    with pytest.raises(MachineError, match=r"train\.micro_batch = 8 does not fit into memory; 2 does") as caught:
        check_micro_batch(attempt, 8, [4, 2, 1], checkpointing=False)
    assert "train.gradient_checkpointing = true" in str(caught.value)
    assert check_micro_batch(attempt, 2, [1], checkpointing=False).size == 2


def test_where_nothing_fits_the_remedies_are_said() -> None:
    """Not even one row."""
    attempt, _ = device_with_room_for(0)
    with pytest.raises(MachineError, match="one picture a forward pass does not fit"):
        largest_micro_batch(attempt, micro_batch_sizes(4, 1))


def test_other_errors_are_not_taken_for_memory() -> None:
    """A defect of the model comes through as it is."""

    def attempt(size: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        largest_micro_batch(attempt, [1])


def test_a_disk_too_small_is_found_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 kept checkpoints and one in the making, of 16 GB, and a result of 8: 72 GB."""
    usage = shutil._ntuple_diskusage  # type: ignore[attr-defined]
    for free, fits in ((71, False), (73, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(0, 0, free * 10**9))
        if fits:
            check_disk(tmp_path, weights=8 * 10**9, moments=8 * 10**9, keep=3)
        else:
            with pytest.raises(MachineError, match=r"71.0 GB free.* take 72.0 GB.*lower save\.keep"):
                check_disk(tmp_path, weights=8 * 10**9, moments=8 * 10**9, keep=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = save_base(tmp_path_factory.mktemp("base") / "sdxl", "sdxl")
    return load_base(recipe(folder).model)


def recipe(folder: Path | str, **train: object) -> Recipe:
    return Recipe.model_validate({"model": {"base": str(folder)}, "train": {"precision": "fp32"} | train})


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3])
def test_predicted_memory_is_that_of_a_real_pass(base: Base, rows: int) -> None:
    """Tensors without bytes hold, at their peak, exactly what real ones hold on the CPU."""
    text = base.encode_text(["a"] * rows)
    times = torch.tensor([base.time_ids((64, 64), (0, 0), (64, 64))] * rows)
    conditions = torch.zeros(rows, 3, 64, 64, dtype=torch.uint8)
    batch = Batch([""] * rows, [0] * rows, [""] * rows, conditions, text=text, time_ids=times)
    controlnet, noisy, steps = base.new_controlnet("unet"), torch.zeros(rows, 4, 8, 8), torch.zeros(rows).long()

    def run() -> None:
        base.predict(controlnet, noisy, steps, batch).float().square().mean().backward()

    predicted = predict_memory(base, recipe(base.model.base), (64, 64), rows)
    assert predicted.passes == pytest.approx(
        peak_of(run), rel=0.01
    )  # the inputs are made within the one, not the other


@pytest.mark.slow
def test_memory_grows_with_what_is_kept(base: Base) -> None:
    """Rows, the average, fp32 and uncached encoders cost memory; 8-bit states save 6 bytes a parameter."""

    def predict(rows: int = 1, **tables: object) -> object:
        values = {"model": {"base": base.model.base}, "train": {"precision": "fp32"}} | tables
        return predict_memory(base, Recipe.model_validate(values), (64, 64), rows)

    plain = predict()
    trained = sum(parameter.numel() for parameter in base.new_controlnet("unet").parameters())
    assert plain.training == 12 * trained
    narrow = predict(train={"precision": "fp32", "optimizer": "adamw8bit"}, ema={"device": "cpu"})
    assert narrow.training == (6 - 4) * trained
    three = predict(3, ema={"enabled": False}, cache={"latents": False, "text": False})
    assert three.training == 8 * trained
    assert three.passes > 1.5 * plain.passes
    assert three.models > plain.models
    assert predict(train={"precision": "bf16"}).peak < plain.peak
    assert (
        predict(train={"precision": "bf16", "weights": "bf16"}).models < plain.models
    )  # without a copy of the weights
    assert predict(train={"precision": "bf16", "gradient_checkpointing": True}).models < plain.models
