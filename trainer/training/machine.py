"""What a run needs of its machine: device, precision, packages, processes, a login. All of it is checked before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from trainer.errors import MachineError
from trainer.inference.export import check_push
from trainer.models.quantized import check_quantizer
from trainer.recipe.layout import LOGS
from trainer.recipe.recipe import Recipe, Train
from trainer.training.optimizer import check_optimizer
from trainer.training.trackers import find_tracker

if TYPE_CHECKING:
    from accelerate import Accelerator

PLAIN = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU")  # each process has the whole model


@contextmanager
def accelerated(recipe: Recipe) -> Iterator[Accelerator]:
    """`make_accelerator`'s, for as long as this lasts: afterwards accelerate's state and the random numbers of torch are those of
    before, since this may be somebody's notebook. Raises as it does."""
    import torch
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in states]
    try:
        accelerator = make_accelerator(recipe)
        device = accelerator.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield accelerator
    finally:
        for state, values in zip(states, before):
            state.clear()
            state.update(values)


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Device, processes, mixed precision and tracker as the recipe, and `accelerate launch`, say.

    Raises MachineError for a GPU, a precision or a package that the machine lacks.
    """
    device, tracker = _device(recipe), find_tracker(recipe.log.tracker)
    if recipe.train.precision == "fp16" and device == "cpu":
        raise MachineError('train.precision = "fp16" needs a GPU: say "bf16" or "fp32"')
    _check_bf16(recipe.train, device)
    check_optimizer(recipe.train)
    check_quantizer(recipe.model.quantize)
    _check_compiler(recipe.train)
    if recipe.save.push_to_hub:
        check_push(recipe.save.push_to_hub)

    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import DistributedDataParallelKwargs

    AcceleratorState._reset_state(reset_partial_state=True)  # a second run in one process may differ in all of this
    GradientState._reset_state()
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision={"fp32": "no"}.get(recipe.train.precision, recipe.train.precision),
        log_with=tracker,
        project_dir=str(Path(recipe.save.dir) / LOGS),
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True)
        ],  # else each gradient is there twice
    )
    if accelerator.distributed_type not in PLAIN:
        raise MachineError(
            f"accelerate is configured for {accelerator.distributed_type.value}, but here the recipe says how weights are shared"
            ' out: launch with --multi_gpu, and say train.shard = "full"; for less memory on each GPU by itself'
            ' train.optimizer = "adamw8bit" or train.gradient_checkpointing = true'
        )
    _check_shares(recipe.train, accelerator.num_processes)
    return accelerator


def _check_bf16(train: Train, device: str) -> None:
    """Raises MachineError for a GPU that has no bf16 of its own: by emulation it would be slower than fp32."""
    import torch

    if train.precision == "bf16" and device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise MachineError('train.precision = "bf16": this GPU has none of its own; say "fp16" or "fp32"')


def _check_compiler(train: Train) -> None:
    """Raises MachineError where torch.compile would find no compiler: for a GPU, too, it builds code for the CPU."""
    if train.compile and not any(which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++")):
        raise MachineError("train.compile = true needs a C++ compiler: install g++, or say train.compile = false")


def _check_shares(train: Train, processes: int) -> None:
    """Raises MachineError where an update cannot be cut into equal passes on all processes."""
    together = processes * (1 if train.micro_batch == "auto" else train.micro_batch)
    if train.batch % together:
        each = "" if train.micro_batch == "auto" else f" with train.micro_batch = {train.micro_batch} each"
        raise MachineError(f"train.batch = {train.batch} cannot be shared by {processes} processes{each}")


def _device(recipe: Recipe) -> str:
    import torch

    found = "cuda" if torch.cuda.is_available() else "cpu"
    if recipe.train.device == "cuda" and found == "cpu":
        raise MachineError('train.device = "cuda", but PyTorch finds no GPU here: say train.device = "cpu"')
    return found if recipe.train.device == "auto" else recipe.train.device
