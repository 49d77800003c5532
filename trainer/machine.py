"""What a run needs of its machine: device, precision, processes, trackers. All of it is checked before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import MachineError
from trainer.optimizer import check_optimizer
from trainer.recipe import Recipe, Train

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

PLAIN = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU")  # each process has the whole model
LOGS = "logs"  # of trackers that write files, below save.dir


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Device, processes, mixed precision and tracker as the recipe, and `accelerate launch`, say.

    Raises MachineError for a GPU, a precision or a package that the machine lacks.
    """
    device, tracker = _device(recipe), _tracker(recipe.log.tracker)
    if recipe.train.precision == "fp16" and device == "cpu":
        raise MachineError('train.precision = "fp16" needs a GPU: say "bf16" or "fp32"')
    check_optimizer(recipe.train, device)

    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)  # a second run in one process may differ in all of this
    GradientState._reset_state()
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision={"fp32": "no"}.get(recipe.train.precision, recipe.train.precision),
        log_with=tracker,
        project_dir=str(Path(recipe.save.dir) / LOGS),
    )
    if accelerator.distributed_type not in PLAIN:
        found = accelerator.distributed_type.value
        raise MachineError(
            f"accelerate is configured for {found}; condprep trains with plain data parallelism: --multi_gpu"
        )
    _check_shares(recipe.train, accelerator.num_processes)
    return accelerator


def _check_shares(train: Train, processes: int) -> None:
    """Raises MachineError where an update cannot be cut into equal passes on all processes."""
    together = processes * (1 if train.micro_batch == "auto" else train.micro_batch)
    if train.batch % together:
        each = "" if train.micro_batch == "auto" else f" with train.micro_batch = {train.micro_batch} each"
        raise MachineError(f"train.batch = {train.batch} cannot be shared by {processes} processes{each}")


def dtype(recipe: Recipe) -> torch.dtype:
    """Of the frozen models, and of the forward pass."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[recipe.train.precision]


def _device(recipe: Recipe) -> str:
    import torch

    found = "cuda" if torch.cuda.is_available() else "cpu"
    if recipe.train.device == "cuda" and found == "cpu":
        raise MachineError('train.device = "cuda", but PyTorch finds no GPU here: say train.device = "cpu"')
    return found if recipe.train.device == "auto" else recipe.train.device


def _tracker(name: str) -> str | None:
    if name == "auto":
        return "tensorboard" if find_spec("tensorboard") else None
    if name == "none":
        return None
    if not find_spec(name):
        raise MachineError(f'log.tracker = "{name}" is not installed: pip install {name}, or say log.tracker = "none"')
    return name
