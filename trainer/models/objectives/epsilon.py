"""The noise is to be found again, as in Stable Diffusion 1.5 and XL (Ho et al., 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from trainer.models.objectives.diffusion import Diffusion
from trainer.types import PredictionType

if TYPE_CHECKING:
    from trainer.recipe.recipe import Train


class Epsilon(Diffusion):
    name: ClassVar[PredictionType] = "epsilon"

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise

    def weights(self, timesteps: Tensor, train: Train) -> Tensor:
        """min(snr, gamma) / snr (Hang et al., 2023); 1 where gamma is 0."""
        if not train.snr_gamma:
            return torch.ones(len(timesteps), device=timesteps.device)
        # also where a rescaled schedule ends in snr = 0
        return (train.snr_gamma / self.snr(timesteps)).clamp(max=1)
