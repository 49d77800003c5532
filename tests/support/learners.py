"""A learner on a tiny base, batches as the cache would give them, and its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support.trainer_models import slim_controlnet
from torch import Tensor

from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Recipe
from trainer.training.machine import make_accelerator
from trainer.training.step import Learner
from trainer.types import Batch, torch_dtype

RATE = 1e-3  # of learning, in tests


def make_learner(base: Path, *, slim: bool = True, **train: Any) -> Learner:
    """A learner whose first update has gradients everywhere; train: keys of [train] that are different.

    slim: a UNet's ControlNet has a slim embedder of conditions, which costs most, above all where a CPU has no bf16.
    """
    settings = {"batch": 4, "micro_batch": 4, "precision": "fp32", "device": "cpu", "schedule": "constant", "lr": 1e-3}
    recipe = Recipe.model_validate(
        {"model": {"base": str(base)}, "train": settings | train, "log": {"tracker": "none"}, "ema": {"decay": 0.5}}
    )
    accelerator = make_accelerator(recipe)
    loaded = load_base(recipe.model)
    torch.manual_seed(1)
    slim = slim and loaded.part == "unet"
    controlnet = slim_controlnet(loaded.denoiser) if slim else loaded.new_controlnet("unet")
    stir(controlnet)
    loaded.to(accelerator.device, torch_dtype(recipe.train.precision))  # as a run has it
    learner = Learner(accelerator, loaded, controlnet, recipe)
    learner.accumulate(recipe.train.batch // recipe.train.micro_batch)
    return learner


def stir(controlnet: torch.nn.Module) -> None:
    """Out of the zero convolutions' initial state, in which most gradients are zero."""
    torch.manual_seed(2)
    for parameter in controlnet.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)


def make_batch(base: Base, rows: int = 4, side: int = 64) -> Batch:
    """Complete, as the cache would give it: pictures of side x side pixels."""
    generator = torch.Generator().manual_seed(3)
    pixels, conditions = torch.randint(0, 256, (2, rows, 3, side, side), generator=generator, dtype=torch.uint8)
    captions = ["a disc", "a red box", "", "discs"][:rows]
    sizes = base.time_ids((side, side), (0, 0), (side, side))
    times = None if sizes is None else torch.tensor([sizes] * rows)
    bare = Batch([f"row{n}" for n in range(rows)], [0] * rows, captions, conditions, pixels=pixels, time_ids=times)
    return replace(base.complete(bare), pixels=None)


def split(batch: Batch, size: int) -> list[Batch]:
    """The batch in parts of `size` rows."""
    return [batch.take(range(n, n + size)) for n in range(0, len(batch), size)]


def weights(learner: Learner) -> list[Tensor]:
    """A copy of what is trained."""
    return [parameter.detach().clone() for parameter in learner.controlnet.parameters()]
