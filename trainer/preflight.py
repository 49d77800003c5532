"""Before the first update: what would fail after an hour fails now, with what would fit instead."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.errors import MachineError


@dataclass(frozen=True)
class Fit:
    """A size of the forward pass that was tried and fits."""

    micro_batch: int
    peak: int | None  # bytes of the device at once, while it was tried; None on a CPU


def sizes(batch: int, processes: int) -> list[int]:
    """What `micro_batch` can be, largest first: the divisors of a process's share."""
    share = batch // processes
    return [size for size in range(share, 0, -1) if share % size == 0]


def largest_fit(attempt: Callable[[int], None], candidates: list[int]) -> Fit:
    """The first size whose rehearsal does not run out of memory. Raises MachineError where none does.

    attempt: rehearses an update with that many rows a pass, on all processes; raises torch.OutOfMemoryError on all.
    """
    for size in candidates:
        if fit := _try(attempt, size):
            return fit
    raise MachineError(
        "one picture a forward pass does not fit into memory: say train.gradient_checkpointing = true,"
        ' train.optimizer = "adamw8bit", or a smaller data.resolution'
    )


def check_fit(attempt: Callable[[int], None], micro_batch: int, smaller: list[int], checkpointing: bool) -> Fit:
    """Raises MachineError that says which size does fit, where the recipe's does not."""
    if fit := _try(attempt, micro_batch):
        return fit
    fit = largest_fit(attempt, smaller)
    hint = "" if checkpointing else ", or try train.gradient_checkpointing = true, which needs much less a picture"
    raise MachineError(
        f"train.micro_batch = {micro_batch} does not fit into memory; {fit.micro_batch} does{_gigabytes(fit.peak)}:"
        f' say train.micro_batch = {fit.micro_batch} or "auto"{hint}. train.batch stays the same'
    )


def _try(attempt: Callable[[int], None], size: int) -> Fit | None:
    _forget()
    try:
        attempt(size)
        return Fit(size, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None)
    except torch.OutOfMemoryError:
        return None
    finally:
        _forget()


def _forget() -> None:
    gc.collect()  # of a pass that failed, tensors hang in its traceback
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _gigabytes(size: int | None) -> str:
    return f" ({size / 1e9:.1f} GB)" if size else ""


def check_disk(folder: Path, parameters: int, keep: int, average: bool) -> None:
    """Raises MachineError where the checkpoints and the result of that many parameters do not fit into a folder.

    Kept checkpoints, one that is being written, and the result: weights, two moments, and the average, in fp32.
    """
    checkpoint = parameters * 4 * (3 + average)
    needed = (keep + 1) * checkpoint + parameters * 4 * (1 + average)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"{folder} has {free / 1e9:.1f} GB free, and {keep} checkpoints of {checkpoint / 1e9:.1f} GB, one more while it"
            f" is written, and the result take {needed / 1e9:.1f} GB: make room, lower save.keep, or choose another save.dir"
        )
