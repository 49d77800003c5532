"""AdamW and its learning rate. The rate is a function of the update's number, so there is no state to save."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from trainer.errors import MachineError

if TYPE_CHECKING:
    import torch

    from trainer.recipe.recipe import Train


def learning_rate(train: Train, update: int, total: int) -> float:
    """The rate of the update-th update of `total`, from 1. The warm-up rises to the peak, cosine and linear fall to 0.

    No update has the rate 0: the first has a step of the warm-up, the last one a step of the fall.
    """
    if train.schedule != "constant" and update <= train.warmup:
        return train.lr * update / train.warmup
    progress = (update - 1 - train.warmup) / max(1, total - train.warmup)
    match train.schedule:
        case "linear":
            return train.lr * (1 - progress)
        case "cosine":
            return train.lr * (1 + math.cos(math.pi * progress)) / 2
    return train.lr


def check_optimizer(train: Train) -> None:
    """Raises MachineError where the machine lacks what the recipe's optimizer needs."""
    if train.optimizer == "adamw8bit" and not find_spec("bitsandbytes"):
        raise MachineError('train.optimizer = "adamw8bit" needs bitsandbytes: pip install bitsandbytes, or say "adamw"')


def make_optimizer(train: Train, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW over fp32 master weights: fused, or with 8-bit states."""
    settings: dict[str, Any] = {
        "lr": train.lr,
        "betas": train.betas,
        "eps": train.eps,
        "weight_decay": train.weight_decay,
    }
    if train.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **settings)
        return optimizer
    from torch.optim import AdamW

    return AdamW(parameters, fused=True, **settings)
