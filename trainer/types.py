"""What moves between the dataset, the cache and the loop.

Pictures and conditions are (B, 3, H, W) uint8 RGB, 0..255; H and W are one bucket for the whole batch. Latents are in
the denoiser's space: what the VAE says, already shifted and scaled. Text is what a family's text encoders return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Latents:
    """The VAE's posterior of B pictures: a normal distribution for each value."""

    mean: Tensor  # (B, C, h, w)
    std: Tensor  # (B, C, h, w)

    def sample(self, noise: Tensor) -> Tensor:
        """One draw: noise (B, C, h, w) of a standard normal -> latents (B, C, h, w) of noise's dtype."""
        return self.mean.to(noise.dtype) + self.std.to(noise.dtype) * noise

    def to(self, device: torch.device | str) -> Latents:
        return Latents(*(t.to(device, non_blocking=True) for t in (self.mean, self.std)))


@dataclass(frozen=True, slots=True)
class Batch:
    """B pairs of one bucket. What is not cached is None (latents) or empty (text), and `Base.complete` makes it."""

    keys: list[str]  # what the dataset calls its rows
    captions: list[str]  # the one that was chosen for each row; "" where it was dropped
    conditions: Tensor  # (B, 3, H, W) uint8
    latents: Latents | None = None
    pixels: Tensor | None = None  # (B, 3, H, W) uint8; None where latents are cached
    text: Mapping[str, Tensor] = field(default_factory=dict)  # "prompt_embeds" (B, L, D); SDXL: "pooled" (B, P)
    time_ids: Tensor | None = None  # SDXL: (B, 6), original height and width, crop top and left, height and width

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device, without waiting for the copies."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            conditions=moved(self.conditions),
            latents=self.latents and self.latents.to(device),
            pixels=None if self.pixels is None else moved(self.pixels),
            text={name: moved(tensor) for name, tensor in self.text.items()},
            time_ids=None if self.time_ids is None else moved(self.time_ids),
        )

    def __len__(self) -> int:
        return len(self.keys)
