"""A straight line from picture to noise, of which the direction is to be said (Liu et al., 2023; Esser et al., 2024).

noisy = (1 - sigma) latents + sigma noise, the target is noise - latents. What stands for timesteps is sigma itself,
(B,) float32 in (0, 1]: families whose network counts in thousandths multiply.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from trainer.errors import RecipeError
from trainer.models.objectives.protocol import Times
from trainer.types import PredictionType

if TYPE_CHECKING:
    from trainer.recipe.recipe import Train

PATCH = 2  # latents along a side of a token, in every family that flows


@dataclass(frozen=True)
class ByResolution:
    """How a base shifts its sigmas with the number of tokens, as its scheduler says: a line through two points."""

    tokens: tuple[int, int]
    exponents: tuple[float, float]  # of the shift with so many tokens
    exponential: bool = True  # else the line is that of the shift itself

    def shift(self, size: tuple[int, int]) -> float:
        """Of latents (h, w)."""
        (few, many), (low, high) = self.tokens, self.exponents
        count = size[0] * size[1] / PATCH**2
        mu = low + (high - low) * (count - few) / (many - few)
        return math.exp(mu) if self.exponential else mu


@dataclass(frozen=True)
class Flow:
    """Of a base, by its scheduler."""

    shift: float = 1.0  # larger pictures need more noise to be hidden by it: sigma -> s sigma / (1 + (s - 1) sigma)
    by_resolution: ByResolution | None = None  # instead of `shift`
    name: ClassVar[PredictionType] = "flow"

    @classmethod
    def of(cls, config: Any) -> Flow:
        """config: of a FlowMatchEulerDiscreteScheduler."""
        if not config.use_dynamic_shifting:
            return cls(config.shift)
        tokens = (config.base_image_seq_len, config.max_image_seq_len)
        line = ByResolution(tokens, (config.base_shift, config.max_shift), config.time_shift_type == "exponential")
        return cls(by_resolution=line)

    @property
    def schedule(self) -> list[Any]:
        return [self.shift, self.by_resolution and asdict(self.by_resolution)]

    def to(self, device: torch.device | str) -> Self:
        return self  # it has no tables

    def refuse(self, train: Train) -> None:
        if train.snr_gamma:
            raise RecipeError(
                f"train.snr_gamma = {train.snr_gamma:g} is for bases that predict noise or velocity, and this one a flow:"
                " say train.snr_gamma = 0; train.weighting weights a flow"
            )

    def times(self, train: Train, size: tuple[int, int]) -> Times:
        """Logit-normal (0, 1), as SD 3 was trained, or uniform; then shifted."""
        uniform, shift = train.timesteps == "uniform", self._shift(train, size)

        def draw(generator: torch.Generator) -> Tensor:
            if uniform:
                return shifted(1 - torch.rand((), generator=generator), shift)  # without 0
            return shifted(torch.randn((), generator=generator).sigmoid(), shift)

        return draw

    def _shift(self, train: Train, size: tuple[int, int]) -> float:
        if train.shift != "auto":
            return train.shift
        return self.by_resolution.shift(size) if self.by_resolution else self.shift

    def band(self, number: int, bands: int) -> Times:
        return lambda generator: (number + 1 - torch.rand((), generator=generator)) / bands

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        sigma = timesteps[:, None, None, None]
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - latents

    def weights(self, timesteps: Tensor, train: Train) -> Tensor:
        """As diffusers' compute_loss_weighting_for_sd3; "preconditioned" is what its --precondition_outputs comes to."""
        match train.weighting:
            case "preconditioned":  # the squared error of the picture that the flow points to
                return timesteps.square()
            case "cosmap":
                return 2 / (math.pi * (1 - 2 * timesteps + 2 * timesteps.square()))
            case _:
                return torch.ones_like(timesteps)


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """As FlowMatchEulerDiscreteScheduler shifts, by a number or, the exponential of mu, with the resolution."""
    return shift * sigma / (1 + (shift - 1) * sigma)
