"""A stand-in for a network that needs a known number of bytes a pixel."""

from __future__ import annotations

import torch
from support.fragile import Fragile

from condprep import Maps

A_PIXEL = 1000  # bytes


class Hungry(Fragile):
    """Paints grey, and remembers in what batches."""

    name = "hungry"
    plenty = 0

    def __init__(self) -> None:
        super().__init__(limit=10**9)
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, rgb: torch.Tensor, keys: list[str]) -> Maps:
        self.seen.append(tuple(rgb.shape))
        return super().__call__(rgb, keys)

    def weigh(self, rgb: torch.Tensor) -> None:
        """Some of it is let go before the rest is taken."""
        height, width = rgb.shape[2:]
        for channels in (A_PIXEL // 2, A_PIXEL - 3):
            torch.empty(channels, height, width, dtype=torch.uint8)
