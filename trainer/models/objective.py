"""The training loss as pure functions: noise and timesteps are arguments, so any step can be replayed and tested.

Latents, noise and predictions are (B, C, h, w), float32; timesteps are (B,), int64. What is drawn at random for a row
depends on the seed, the epoch and the row's key alone: not on the batch it is in, nor on how many processes there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.types import Batch, PredictionType

if TYPE_CHECKING:
    from trainer.models.base import Base


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


@dataclass(frozen=True)
class Draws:
    """All that is random about B rows."""

    timesteps: Tensor  # (B,) int64
    posterior: Tensor  # (B, C, h, w): which latents are drawn from the VAE's posterior
    noise: Tensor  # (B, C, h, w): what is added to them

    def to(self, device: torch.device | str) -> Draws:
        return Draws(*(t.to(device, non_blocking=True) for t in (self.timesteps, self.posterior, self.noise)))


def squared_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """(B,) float32: the mean squared error of each row."""
    return (prediction.float() - target.float()).square().mean((1, 2, 3))


def row_losses(base: Base, controlnet: Any, diffusion: Diffusion, batch: Batch, draws: Draws) -> Tensor:
    """(B,) float32: how far the denoiser, steered by the ControlNet, is off. The batch is complete, on the device."""
    assert batch.latents is not None
    latents = batch.latents.sample(draws.posterior)
    noisy = diffusion.add_noise(latents, draws.noise, draws.timesteps).to(base.unet.dtype)
    prediction = base.predict(controlnet, noisy, draws.timesteps, batch)
    return squared_errors(prediction, diffusion.target(latents, draws.noise, draws.timesteps))


def draw(batch: Batch, *, seed: int, timesteps: range, pin: bool = False) -> Draws:
    """Draws for the rows of a complete batch, on the CPU. timesteps: from which to choose.

    pin: in page-locked memory, from which a GPU copies without being waited for.
    """
    assert batch.latents is not None
    shape = batch.latents.mean.shape  # (B, C, h, w)
    chosen = torch.empty(len(batch), dtype=torch.int64, pin_memory=pin)
    posterior, noise = (torch.empty(shape, pin_memory=pin) for _ in range(2))
    for i, (epoch, key) in enumerate(zip(batch.epochs, batch.keys)):
        generator = torch.Generator().manual_seed(_seed(seed, epoch, key))
        chosen[i] = torch.randint(timesteps.start, timesteps.stop, (), generator=generator)
        torch.randn(shape[1:], generator=generator, out=posterior[i])
        torch.randn(shape[1:], generator=generator, out=noise[i])
    return Draws(chosen, posterior, noise)


def _seed(seed: int, epoch: int, key: str) -> int:
    """63 bits that differ wherever one of the three differs."""
    digest = blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
