"""What is measured while training: kept on the device between lines, so that no step waits for it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from condprep.runtime.files import commit_text, fsync
from condprep.runtime.own import appending
from trainer.errors import TrainingStopped
from trainer.recipe.layout import METRICS
from trainer.training.trackers import show_picture, start_tracker

if TYPE_CHECKING:
    from accelerate import Accelerator

    from trainer.recipe.recipe import Recipe
    from trainer.training.step import StepResult
    from trainer.types import Batch


class Meter:
    """The rows since the last line: their losses stay on the device until `read`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a line: rows and time from now on."""
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.keys: list[str] = []
        self.waited, self.began = 0.0, time.perf_counter()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time in which there was none is counted."""
        while True:
            began = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - began
            yield batch

    def add(self, step: StepResult) -> None:
        """An update."""
        self.keys += step.keys
        self.losses.append(step.losses)
        self.norms.append(step.norm)

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all processes, and start again. This waits for the device.

        Raises TrainingStopped where a loss, with its rows, or the gradients' norm is not a finite number. A scaler of
        fp16 finds its scale by overflows, and skips their steps.
        """
        losses = torch.cat(self.losses)
        mine = losses.new_tensor([losses.sum(), len(losses), (~losses.isfinite()).sum()])
        total, rows, bad = accelerator.reduce(mine, "sum").tolist()
        seconds = time.perf_counter() - self.began
        if bad:
            raise TrainingStopped(_not_finite(self.keys, losses))
        norms = torch.stack(self.norms)
        if not accelerator.scaler and not norms.isfinite().all():
            raise TrainingStopped(
                "the gradients' norm is not a finite number although the losses are: the weights are spoilt. Lower train.lr"
                ' or use train.precision = "fp32". The last checkpoint is from before'
            )
        found = {
            "loss": total / rows,
            "grad_norm": norms[norms.isfinite()].mean().nan_to_num().item(),
            "pictures_per_second": rows / seconds,
            "data_wait": self.waited / seconds,
        }
        self.reset()
        return found


def _not_finite(keys: Sequence[str], losses: Tensor) -> str:
    bad = [key for key, fine in zip(keys, losses.isfinite().tolist()) if not fine]
    rows = ", ".join(bad[:8]) + (f" and {len(bad) - 8:,} more" if len(bad) > 8 else "") or "rows of another process"
    return (
        f"the loss is not a finite number for {rows}. Look at these rows; if they are fine, lower train.lr or use"
        ' train.precision = "bf16". The last checkpoint is from before'
    )


class Journal:
    """metrics.jsonl and the trackers. Only the main process writes."""

    def __init__(self, accelerator: Accelerator, recipe: Recipe, update: int = 0, lines: int = 0) -> None:
        """For a run that goes on after that update, when there were so many lines.

        Raises MachineError where its tracker cannot be started.
        """
        self.accelerator, self.path, self.lines = accelerator, Path(recipe.save.dir) / METRICS, lines
        self._rewind()
        start_tracker(accelerator, recipe, update)

    def _rewind(self) -> None:
        """Forget what a killed run wrote after the checkpoint from which it goes on."""
        if self.accelerator.is_main_process and self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            commit_text(self.path, "".join(lines[: self.lines]))

    def write(self, update: int, values: Mapping[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        with appending(self.path) as file:
            file.write(json.dumps({"update": update, **values}) + "\n")
        self.lines += 1
        self.accelerator.log(dict(values), step=update)

    def sync(self) -> None:
        """Put the lines on the disk, before a checkpoint that comes after them."""
        if self.accelerator.is_main_process and self.path.exists():
            fsync(self.path)

    def show(self, update: int, picture: Any) -> None:
        """A PIL picture for the trackers."""
        for tracker in self.accelerator.trackers:
            show_picture(tracker, picture, update)

    def close(self) -> None:
        self.accelerator.end_training()
