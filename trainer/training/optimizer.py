"""The optimizers and the learning rate. The rate is a function of the update's number, so there is no state to save."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from trainer.errors import MachineError

if TYPE_CHECKING:
    import torch

    from trainer.recipe.recipe import Train

PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}  # that optimizers need


def learning_rate(train: Train, update: int, total: int) -> float:
    """The rate of the update-th update of `total`, from 1. The warm-up rises to the peak; all but the constants fall to 0.

    No update has the rate 0: the first has a step of the warm-up, the last one a step of the fall.
    """
    if train.schedule != "constant" and update <= train.warmup:
        return train.lr * update / train.warmup
    progress = (update - 1 - train.warmup) / max(1, total - train.warmup)
    match train.schedule:
        case "linear":
            return train.lr * (1 - progress)
        case "polynomial":
            return float(train.lr * (1 - progress) ** train.power)
        case "cosine":
            return train.lr * (1 + math.cos(math.pi * progress)) / 2
    return train.lr


def check_optimizer(train: Train) -> None:
    """Raises MachineError where the machine lacks what the recipe's optimizer needs."""
    package = PACKAGES.get(train.optimizer)
    if package and not find_spec(package):
        raise MachineError(
            f'train.optimizer = "{train.optimizer}" needs {package}: pip install {package}, or say "adamw"'
        )


def make_optimizer(train: Train, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The recipe's optimizer over weights as the recipe has them. Its state_dict is all that the next step depends on."""
    if train.weights == "bf16":
        from trainer.training.rounding import RoundedOptimizer

        return RoundedOptimizer(partial(_of_fp32, train), parameters, train.seed)
    return _of_fp32(train, parameters)


def _of_fp32(train: Train, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    decayed: dict[str, Any] = {"lr": train.lr, "weight_decay": train.weight_decay}
    adam = decayed | {"betas": train.betas, "eps": train.eps}
    match train.optimizer:
        case "adamw8bit":
            from bitsandbytes.optim import AdamW8bit

            return _made(AdamW8bit, parameters, adam)
        case "prodigy":  # as its authors advise for diffusion models; the warm-up is not taken for a small rate
            from prodigyopt import Prodigy

            return _made(Prodigy, parameters, adam | {"use_bias_correction": True, "safeguard_warmup": True})
        case "adafactor":  # the rate is the recipe's, not its own
            from transformers.optimization import Adafactor

            return _made(Adafactor, parameters, decayed | {"scale_parameter": False, "relative_step": False})
    from torch.optim import AdamW

    return AdamW(parameters, fused=True, **adam)


def _made(kind: Any, parameters: Iterable[torch.nn.Parameter], settings: dict[str, Any]) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = kind(parameters, **settings)
    return optimizer


def state_bytes(optimizer: str, shapes: Iterable[Sequence[int]]) -> int:
    """What an optimizer keeps of parameters of these shapes."""
    return sum(_state_bytes(optimizer, shape) for shape in shapes)


def _state_bytes(optimizer: str, shape: Sequence[int]) -> int:
    each = {"adamw": 8, "adamw8bit": 2, "prodigy": 16}  # two moments; prodigy's sum of gradients and first weights, too
    if optimizer in each:
        return each[optimizer] * math.prod(shape)
    if len(shape) < 2:  # adafactor: means over the last axis and over the one before; of vectors, all squares
        return 4 * math.prod(shape)
    return 4 * (math.prod(shape[:-1]) + math.prod([*shape[:-2], shape[-1]]))


def effective_rate(optimizer: torch.optim.Optimizer) -> float:
    """The rate of the last step: of Prodigy, times the distance that it has estimated."""
    group = optimizer.param_groups[0]
    return float(group["lr"] * group.get("d", 1.0))
