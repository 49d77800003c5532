"""What noise and velocity have in common: a variance preserving diffusion in discrete timesteps (Ho et al., 2020).

noisy = sqrt(alpha) latents + sqrt(1 - alpha) noise, alpha falling from almost 1 at timestep 0 to almost 0 at the last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from trainer.errors import RecipeError
from trainer.models.objectives.protocol import Times

if TYPE_CHECKING:
    from trainer.recipe.recipe import Train


@dataclass(frozen=True)
class Diffusion:
    """A schedule; its children say what is to be predicted."""

    alphas: Tensor  # (T,) float32 on the latents' device: alphas_cumprod of the base's scheduler

    @property
    def schedule(self) -> list[float]:
        numbers: list[float] = self.alphas.tolist()
        return numbers

    def to(self, device: torch.device | str) -> Self:
        return replace(self, alphas=self.alphas.to(device))

    def refuse(self, train: Train) -> None:
        for key, usual in (("timesteps", "auto"), ("shift", "auto"), ("weighting", "none")):
            if (found := getattr(train, key)) not in (usual, "uniform"):
                raise RecipeError(
                    f"train.{key} = {json.dumps(found)} is for bases that predict a flow (sd3, flux, ...), and this one has timesteps of a"
                    f' schedule, each drawn alike: say train.{key} = "{usual}"'
                )

    def times(self, train: Train, size: tuple[int, int]) -> Times:
        """Each alike."""
        return among(range(len(self.alphas)))

    def band(self, number: int, bands: int) -> Times:
        edges = torch.linspace(0, len(self.alphas), bands + 1).int().tolist()
        return among(range(edges[number], edges[number + 1]))

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        alpha = self.alpha(timesteps)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def alpha(self, timesteps: Tensor) -> Tensor:
        """(B,) int64 -> (B, 1, 1, 1), the share of the picture."""
        return self.alphas[timesteps][:, None, None, None]

    def snr(self, timesteps: Tensor) -> Tensor:
        """(B,) int64 -> (B,), signal to noise."""
        alpha = self.alphas[timesteps]
        return alpha / (1 - alpha)


def among(timesteps: range) -> Times:
    """One of them, int64, each alike."""
    return lambda generator: torch.randint(timesteps.start, timesteps.stop, (), generator=generator)
