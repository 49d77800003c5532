"""Sizes that a network cannot take: padded before it, cropped after it, never resampled."""

from __future__ import annotations

import torch
from torch import Tensor


def pad_to_multiple(pictures: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) of any dtype -> the same with H and W rounded up to multiples, the last row and column repeated.

    Only the right and the bottom grow, so that pixel (y, x) stays pixel (y, x) and the crop is `[..., :H, :W]`. The
    border is repeated because anything else there, black or a mirror image, makes an edge that the picture has not.
    """
    rows, columns = (_repeat_last(size, multiple, pictures.device) for size in pictures.shape[-2:])
    if len(rows) > pictures.shape[-2]:
        pictures = pictures.index_select(-2, rows)
    if len(columns) > pictures.shape[-1]:
        pictures = pictures.index_select(-1, columns)
    return pictures


def _repeat_last(size: int, multiple: int, device: torch.device) -> Tensor:
    """0, 1 ... size - 1, and again size - 1 up to a multiple."""
    padded = -(-size // multiple) * multiple
    return torch.arange(padded, device=device).clamp_(max=size - 1)
