"""Before the first update: what would fail after an hour fails now, with what would fit instead."""

from __future__ import annotations

import gc
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trainer.data.sampler import SampledRow
from trainer.errors import MachineError, readable_bytes
from trainer.training.memory import predict_memory
from trainer.training.optimizer import state_bytes
from trainer.training.sharing import free_memory, least
from trainer.training.validate import Validator
from trainer.types import Batch, ProcessGroup, Say, torch_dtype

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from trainer.data.split import Split
    from trainer.models.base import Base
    from trainer.recipe.recipe import Recipe
    from trainer.training.step import Learner

USABLE = 0.8  # of the free memory
TOGETHER = (
    "{rows} pictures a forward pass do not fit into this device's memory, and the processes that share its weights cannot try"
    " fewer after that: say a smaller train.micro_batch, train.gradient_checkpointing = true, or a smaller data.resolution"
)


@dataclass(frozen=True)
class MicroBatch:
    """A size of the forward pass that was tried and fits."""

    size: int  # rows
    peak: int | None  # bytes of the device at once, while it was tried; None on a CPU


def preflight(learner: Learner, train: Split, held_out: Split | None, group: ProcessGroup, say: Say) -> int:
    """What would fail after hours fails here: disk, memory, a step, a validation. Returns the rows of a forward pass."""
    base, recipe = learner.base, learner.recipe
    check_room(recipe, learner.controlnet)
    for bucket in set(train.buckets):
        base.check_size(bucket)
    batch = _of_largest_bucket(base, replace(train, base=base), learner.accelerator.device)
    base.offload(**recipe.encoded_ahead)
    micro_batch = fitting_micro_batch(learner, batch, say)
    base.to(learner.accelerator.device, torch_dtype(recipe.train.precision))
    Validator(learner, held_out and replace(held_out, base=base), group).rehearse()
    return micro_batch


def _of_largest_bucket(base: Base, train: Split, device: torch.device) -> Batch:
    """A few rows, encoded, on the device."""
    buckets = train.buckets
    largest = max(buckets, key=lambda size: size[0] * size[1])
    numbers = [number for number, bucket in enumerate(buckets) if bucket == largest][:4]
    batch = train.batch([SampledRow(number, 0) for number in numbers]).with_all_given(range(len(base.kinds)))
    return replace(base.complete(batch.to(device)), pixels=None)


def fitting_micro_batch(learner: Learner, batch: Batch, say: Say) -> int:
    """Rehearse an update; returns the rows of a forward pass, which are the recipe's or, for "auto", as many as fit.

    batch: complete rows of the largest bucket. Raises MachineError where they do not fit, TrainingStopped for a loss
    that is not finite.
    """
    train, device = learner.recipe.train, learner.accelerator.device
    candidates = micro_batch_sizes(train.batch, learner.accelerator.num_processes)

    def attempt(rows: int) -> None:
        _rehearse(learner, batch.take([n % len(batch) for n in range(rows)]))

    if train.micro_batch != "auto":
        smaller = [size for size in candidates if size < train.micro_batch]
        return check_micro_batch(attempt, train.micro_batch, smaller, train.gradient_checkpointing).size
    if device.type == "cpu" or learner.sharded:
        candidates = _predicted_to_fit(learner, batch, candidates)
    found = largest_micro_batch(attempt, candidates)
    say(f"train.micro_batch = {found.size} fits into memory{_gigabytes(found.peak)}")
    return found.size


def _rehearse(learner: Learner, batch: Batch) -> None:
    """Raises torch.OutOfMemoryError on all processes where one runs out of memory."""
    failed = 0.0
    try:
        learner.rehearse(batch)
    except torch.OutOfMemoryError:
        if learner.sharded:
            raise MachineError(TOGETHER.format(rows=len(batch))) from None
        failed = 1.0  # to be told to the others outside of this block, which keeps what filled the memory
    accelerator = learner.accelerator
    if accelerator.reduce(torch.tensor(failed, device=accelerator.device), "sum"):
        raise torch.OutOfMemoryError


def _predicted_to_fit(learner: Learner, batch: Batch, candidates: list[int]) -> list[int]:
    """Without what need not be tried to know that it does not fit; smaller ones than the first that does are not predicted.

    On a CPU nothing says when the memory is full but the end of the process. Where weights are shared out, a process whose
    memory is full in the middle of a pass leaves the others waiting, so that nothing further can be tried.
    """
    accelerator = learner.accelerator
    height, width = batch.conditions.shape[2:]
    shares = accelerator.num_processes if learner.sharded else 1
    free = USABLE * least(free_memory(accelerator.device), accelerator)

    def fits(rows: int) -> bool:
        return predict_memory(learner.base, learner.recipe, (height, width), rows, shares).passes < free

    return [*dropwhile(lambda rows: not fits(rows), candidates)] or candidates[-1:]


def micro_batch_sizes(batch: int, processes: int) -> list[int]:
    """What `micro_batch` can be, largest first: the divisors of a process's share."""
    share = batch // processes
    return [size for size in range(share, 0, -1) if share % size == 0]


def largest_micro_batch(attempt: Callable[[int], None], candidates: list[int]) -> MicroBatch:
    """The first size whose rehearsal does not run out of memory. Raises MachineError where none does.

    attempt: rehearses an update with that many rows a pass, on all processes; raises torch.OutOfMemoryError on all.
    """
    for size in candidates:
        if found := _try(attempt, size):
            return found
    raise MachineError(
        "one picture a forward pass does not fit into memory: say train.gradient_checkpointing = true,"
        ' train.optimizer = "adamw8bit", or a smaller data.resolution'
    )


def check_micro_batch(
    attempt: Callable[[int], None], micro_batch: int, smaller: list[int], checkpointing: bool
) -> MicroBatch:
    """Raises MachineError that says which size does fit, where the recipe's does not."""
    if found := _try(attempt, micro_batch):
        return found
    found = largest_micro_batch(attempt, smaller)
    hint = "" if checkpointing else ", or try train.gradient_checkpointing = true, which needs much less a picture"
    raise MachineError(
        f"train.micro_batch = {micro_batch} does not fit into memory; {found.size} does{_gigabytes(found.peak)}:"
        f' say train.micro_batch = {found.size} or "auto"{hint}. train.batch stays the same'
    )


def _try(attempt: Callable[[int], None], size: int) -> MicroBatch | None:
    _forget()
    try:
        attempt(size)
        return MicroBatch(size, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None)
    except torch.OutOfMemoryError:
        pass
    finally:
        _forget()
    gc.collect()  # tensors of the failed pass hang in its traceback; not always, as it takes long among so many modules
    _forget()
    return None


def _forget() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _gigabytes(size: int | None) -> str:
    return f" ({readable_bytes(size)})" if size else ""


def check_room(recipe: Recipe, controlnet: ControlNetModel) -> None:
    """Raises MachineError where the checkpoints and the result of a run do not fit into its folder, which may not be there yet."""
    shapes = [tuple(parameter.shape) for parameter in controlnet.parameters()]
    moments, weights = state_bytes(recipe.train.optimizer, shapes), sum(map(math.prod, shapes))
    each = torch_dtype(recipe.train.weights).itemsize + torch.float32.itemsize * recipe.ema.enabled
    folder = Path(os.path.abspath(recipe.save.dir))
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    check_disk(there, each * weights, moments, recipe.save.keep)


def check_disk(folder: Path, weights: int, moments: int, keep: int) -> None:
    """Raises MachineError where the checkpoints and the result of a run do not fit into a folder.

    Kept checkpoints, one that is being written, and the result: the weights and their average, and of the checkpoints the
    optimizer's moments, too; in bytes.
    """
    checkpoint = weights + moments
    needed = (keep + 1) * checkpoint + weights
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"{folder} has {readable_bytes(free)} free, and {keep} checkpoints of {readable_bytes(checkpoint)}, one more"
            f" while it is written, and the result take {readable_bytes(needed)}: make room, lower save.keep, or choose another save.dir"
        )
