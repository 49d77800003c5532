"""What an objective is: how rows are made noisy, what is to be said of them, and how much each counts.

Latents, noise and targets are (B, C, h, w), float32. What a timestep is belongs to the objective: (B,) int64 of a schedule,
or (B,) float32 of a flow. Nothing outside looks into it but the family, which tells its network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor

from trainer.types import PredictionType

if TYPE_CHECKING:
    from trainer.recipe.recipe import Train

Times = Callable[[torch.Generator], Tensor]  # draws the timestep of a row, (), on the CPU


class Objective(Protocol):
    """Of a base. Frozen; `to` gives the one whose tables lie on a device."""

    @property
    def name(self) -> PredictionType:
        """What the denoiser says."""
        ...

    @property
    def schedule(self) -> Sequence[Any]:
        """Its numbers: two of one name that are alike in them are the same."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same for timesteps and latents on that device."""
        ...

    def refuse(self, train: Train) -> None:
        """Raises RecipeError for a setting that means nothing to it."""
        ...

    def times(self, train: Train, size: tuple[int, int]) -> Times:
        """As training draws them. size: (h, w) of the latents, where more of them need more noise."""
        ...

    def band(self, number: int, bands: int) -> Times:
        """Evenly from one of `bands` equal parts of the way from picture to noise; 0 has the least noise."""
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The latents at those timesteps."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should say."""
        ...

    def weights(self, timesteps: Tensor, train: Train) -> Tensor:
        """(B,) float32: what a row's squared error counts."""
        ...
