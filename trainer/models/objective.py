"""The training loss as pure functions: noise and timesteps are arguments, so any step can be replayed and tested.

Latents, noise and predictions are (B, C, h, w), float32; timesteps are (B,), int64. What is drawn at random for a row
depends on the seed, the epoch and the row's key alone: not on the batch it is in, nor on how many processes there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.types import Batch, Draws, PredictionType

if TYPE_CHECKING:
    from trainer.models.base import Base
    from trainer.recipe.recipe import Train


@dataclass(frozen=True)
class Diffusion:
    """A variance preserving diffusion: noisy = sqrt(alpha) latents + sqrt(1 - alpha) noise."""

    alphas: Tensor  # (T,) float32 on the latents' device: alphas_cumprod of the base's scheduler
    prediction_type: PredictionType

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The latents at those timesteps."""
        alpha = self._alpha(timesteps)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should say: the noise, or the velocity (Salimans and Ho, 2022)."""
        if self.prediction_type == "epsilon":
            return noise
        alpha = self._alpha(timesteps)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    def weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """(B,): min-SNR weights of the squared error (Hang et al., 2023); 1 where gamma is 0."""
        if not gamma:
            return torch.ones(len(timesteps), device=timesteps.device)
        alpha = self.alphas[timesteps]
        snr = alpha / (1 - alpha)
        if self.prediction_type == "v_prediction":
            return snr.clamp(max=gamma) / (snr + 1)
        return (gamma / snr).clamp(max=1)  # min(snr, gamma) / snr, also where a rescaled schedule ends in snr = 0

    def _alpha(self, timesteps: Tensor) -> Tensor:
        return self.alphas[timesteps][:, None, None, None]


def squared_errors(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) float32: the mean squared error of each row. mask: (B, 1, h, w), by which errors are multiplied."""
    errors = (prediction.float() - target.float()).square()
    return (errors if mask is None else errors * mask).mean((1, 2, 3))


def row_losses(base: Base, controlnet: Any, diffusion: Diffusion, batch: Batch, draws: Draws) -> Tensor:
    """(B,) float32: how far the denoiser, steered by the ControlNet, is off. The batch is complete, on the device."""
    assert batch.latents is not None
    latents = batch.latents.sample(draws.posterior)
    added = draws.noise if draws.further is None else draws.noise + draws.further
    noisy = diffusion.add_noise(latents, added, draws.timesteps).to(base.unet.dtype)
    prediction = base.predict(controlnet, noisy, draws.timesteps, batch)
    return squared_errors(prediction, diffusion.target(latents, draws.noise, draws.timesteps), batch.mask)


def draw_for_training(batch: Batch, train: Train, timesteps: range, shape: Sequence[int] | None = None) -> Draws:
    """As the recipe wants them; else as `draw`."""
    offset, further = train.noise_offset, train.input_perturbation
    return draw(batch, seed=train.seed, timesteps=timesteps, shape=shape, offset=offset, further=further)


def draw(
    batch: Batch,
    *,
    seed: int,
    timesteps: range,
    shape: Sequence[int] | None = None,
    offset: float = 0.0,
    further: float = 0.0,
) -> Draws:
    """Draws for the rows of a batch, on the CPU. timesteps: from which to choose; shape: of latents that are not there yet.

    offset: times a value for each channel is added to its noise (Guttenberg, 2023). further: times noise is added that the
    denoiser is not to find again (Ning et al., 2023).
    """
    if shape is None:
        assert batch.latents is not None
        shape = batch.latents.mean.shape  # (B, C, h, w)
    chosen = torch.empty(len(batch), dtype=torch.int64)
    posterior, noise = torch.empty(tuple(shape)), torch.empty(tuple(shape))
    more = torch.empty(tuple(shape)) if further else None
    for i, (epoch, key) in enumerate(zip(batch.epochs, batch.keys)):
        generator = torch.Generator().manual_seed(_seed(seed, epoch, key))
        chosen[i] = torch.randint(timesteps.start, timesteps.stop, (), generator=generator)
        torch.randn(shape[1:], generator=generator, out=posterior[i])
        torch.randn(shape[1:], generator=generator, out=noise[i])
        if offset:
            noise[i] += offset * torch.randn(shape[1], 1, 1, generator=generator)
        if more is not None:
            more[i] = further * torch.randn(*shape[1:], generator=generator)
    return Draws(chosen, posterior, noise, more)


def _seed(seed: int, epoch: int, key: str) -> int:
    """63 bits that differ wherever one of the three differs."""
    digest = blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
