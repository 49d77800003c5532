"""The training loss as pure functions: noise and timesteps are arguments, so any step can be replayed and tested.

Latents, noise and predictions are (B, C, h, w), float32; what is learned is the base's objective, and timesteps, (B,), are
what it takes for them. What is drawn at random for a row depends on the seed, the epoch and the row's key alone: not on the batch it is in, nor on how many processes there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.models.objectives.protocol import Objective, Times
from trainer.types import Batch, Draws

if TYPE_CHECKING:
    from trainer.models.base import Base
    from trainer.recipe.recipe import Train


def squared_errors(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) float32: the mean squared error of each row. mask: (B, 1, h, w), by which errors are multiplied."""
    errors = (prediction.float() - target.float()).square()
    return (errors if mask is None else errors * mask).mean((1, 2, 3))


def row_losses(base: Base, controlnet: Any, objective: Objective, batch: Batch, draws: Draws) -> Tensor:
    """(B,) float32: how far the denoiser, steered by the ControlNet, is off. The batch is complete, on the device."""
    assert batch.latents is not None
    latents = batch.latents.sample(draws.posterior)
    added = draws.noise if draws.further is None else draws.noise + draws.further
    noisy = objective.add_noise(latents, added, draws.timesteps).to(base.denoiser.dtype)
    prediction = base.predict(controlnet, noisy, draws.timesteps, batch)
    return squared_errors(prediction, objective.target(latents, draws.noise, draws.timesteps), batch.mask)


def draw_for_training(batch: Batch, train: Train, objective: Objective, shape: Sequence[int] | None = None) -> Draws:
    """As the recipe and the objective want them; else as `draw`."""
    shape = shape_of(batch) if shape is None else shape
    times = objective.times(train, (shape[2], shape[3]))
    offset, further = train.noise_offset, train.input_perturbation
    return draw(batch, seed=train.seed, times=times, shape=shape, offset=offset, further=further)


def draw(
    batch: Batch,
    *,
    seed: int,
    times: Times,
    shape: Sequence[int] | None = None,
    offset: float = 0.0,
    further: float = 0.0,
) -> Draws:
    """Draws for the rows of a batch, on the CPU. times: draws a timestep; shape: of latents that are not there yet.

    offset: times a value for each channel is added to its noise (Guttenberg, 2023). further: times noise is added that the
    denoiser is not to find again (Ning et al., 2023).
    """
    shape = shape_of(batch) if shape is None else shape
    chosen = []
    posterior, noise = torch.empty(tuple(shape)), torch.empty(tuple(shape))
    more = torch.empty(tuple(shape)) if further else None
    for i, (epoch, key) in enumerate(zip(batch.epochs, batch.keys)):
        generator = torch.Generator().manual_seed(_seed(seed, epoch, key))
        chosen.append(times(generator))
        torch.randn(shape[1:], generator=generator, out=posterior[i])
        torch.randn(shape[1:], generator=generator, out=noise[i])
        if offset:
            noise[i] += offset * torch.randn(shape[1], 1, 1, generator=generator)
        if more is not None:
            more[i] = further * torch.randn(*shape[1:], generator=generator)
    return Draws(torch.stack(chosen), posterior, noise, more)


def shape_of(batch: Batch) -> Sequence[int]:
    """(B, C, h, w) of its latents, which must be there."""
    assert batch.latents is not None
    return batch.latents.mean.shape


def _seed(seed: int, epoch: int, key: str) -> int:
    """63 bits that differ wherever one of the three differs."""
    digest = blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
