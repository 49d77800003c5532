"""A velocity is to be said, sqrt(alpha) noise - sqrt(1 - alpha) latents, as in Stable Diffusion 2 (Salimans and Ho, 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from trainer.models.objectives.diffusion import Diffusion
from trainer.types import PredictionType

if TYPE_CHECKING:
    from trainer.recipe.recipe import Train


class Velocity(Diffusion):
    name: ClassVar[PredictionType] = "v_prediction"

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        alpha = self.alpha(timesteps)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    def weights(self, timesteps: Tensor, train: Train) -> Tensor:
        """min(snr, gamma) / (snr + 1) (Hang et al., 2023); 1 where gamma is 0."""
        if not train.snr_gamma:
            return torch.ones(len(timesteps), device=timesteps.device)
        snr = self.snr(timesteps)
        return snr.clamp(max=train.snr_gamma) / (snr + 1)
