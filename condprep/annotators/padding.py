"""Sizes that a network cannot take: padded before it, cropped after it, never resampled."""

from __future__ import annotations

import torch
from torch import Tensor

GRID = 64  # controlnet_aux's: on it, every map is the one that the reference makes of the same padded picture


def pad_to_grid(pictures: Tensor) -> Tensor:
    """(B, C, H, W) of any dtype -> H and W rounded up to multiples of 64, the last row and column repeated.

    Only the right and the bottom grow, so that pixel (y, x) stays pixel (y, x) and the crop is `[..., :H, :W]`. The
    border is repeated because anything else there, black or a mirror image, makes an edge that the picture has not.
    """
    for axis in (-2, -1):
        size = pictures.shape[axis]
        if size % GRID:
            pictures = pictures.index_select(axis, _repeat_last(size, pictures.device))
    return pictures


def _repeat_last(size: int, device: torch.device) -> Tensor:
    """0, 1 ... size - 1, and again size - 1 up to a multiple of the grid."""
    padded = -(-size // GRID) * GRID
    return torch.arange(padded, device=device).clamp_(max=size - 1)
