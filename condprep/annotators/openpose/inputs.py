"""Pictures as the network takes them: small, blue first, about zero, padded."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from condprep.annotators.openpose.network import STRIDE
from condprep.annotators.openpose.operators import Frame, interpolation, resize_rows


def network_input(rgb: Tensor, frame: Frame) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> (B, 3, 8 h, 8 w) float32 BGR, value / 256 - 0.5, on the same device.

    On the CPU the very bytes of the reference. On a GPU the same filter as two matrices, so that no picture travels
    back: at most one grey level off, where a value lies between two.
    """
    small = _resize_on_cpu(rgb, frame) if rgb.device.type == "cpu" else resize_on_device(rgb, frame)
    height, width = (STRIDE * cells for cells in frame.cells)
    padding = (0, width - frame.inner[1], 0, height - frame.inner[0])
    # 128 in the padding, which is 0 here
    return F.pad(small.flip(1).float() / 256 - 0.5, padding).contiguous(memory_format=torch.channels_last)


def _resize_on_cpu(rgb: Tensor, frame: Frame) -> Tensor:
    """(B, 3, H, W) -> (B, 3, *frame.inner) uint8, by OpenCV."""
    method = interpolation(frame.picture, frame.inner)
    pictures = rgb.permute(0, 2, 3, 1).contiguous().numpy()
    small = np.stack([cv2.resize(picture, frame.inner[::-1], interpolation=method) for picture in pictures])
    return torch.from_numpy(small).permute(0, 3, 1, 2)


def resize_on_device(rgb: Tensor, frame: Frame) -> Tensor:
    """(B, 3, H, W) -> (B, 3, *frame.inner) float32, whole numbers 0..255, by two matrix products."""
    rows, columns = _shrink(frame, str(rgb.device))
    return (rows @ rgb.float() @ columns.T).round_().clamp_(0, 255)


@lru_cache(maxsize=64)
def _shrink(frame: Frame, device: str) -> tuple[Tensor, Tensor]:
    """Picture -> network's input, float32: (h, H) for rows and (w, W) for columns."""
    method = interpolation(frame.picture, frame.inner)
    rows, columns = (_shrink_axis(before, after, method) for before, after in zip(frame.picture, frame.inner))
    return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)


def _shrink_axis(before: int, after: int, method: int, block: int = 1024) -> NDArray[np.float32]:
    """The matrix (after, before) of a resize along one axis, in blocks: an identity of 10,000 would take 800 MB."""
    identities = (np.eye(before, min(block, before - start), -start) for start in range(0, before, block))
    return np.hstack([resize_rows(identity, after, method) for identity in identities]).astype(np.float32)
