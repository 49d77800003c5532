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

SIGMA = 0.8  # of the blur before hands are looked for, pixels;
KERNEL = np.array([6, 58, 128, 58, 6]) / 256  # OpenCV has it in eight bits where pictures do


def network_input(rgb: Tensor, frame: Frame) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> (B, 3, 8 h, 8 w) float32 BGR, value / 256 - 0.5, on the same device.

    On the CPU the very bytes of the reference. On a GPU the same filter as two matrices, so that no picture travels
    back: at most one grey level off, where a value lies between two.
    """
    height, width = (STRIDE * cells for cells in frame.cells)
    padding = (0, width - frame.inner[1], 0, height - frame.inner[0])
    # 128 in the padding, which is 0 here
    return F.pad(centre(resize_as_reference(rgb, frame.inner)), padding).contiguous(memory_format=torch.channels_last)


def centre(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) RGB, 0..255 -> float32 BGR, value / 256 - 0.5."""
    return rgb.flip(1).float() / 256 - 0.5


def resize_as_reference(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> (B, 3, *size), whole numbers 0..255, where it is: the reference's filter for it."""
    return _resize_on_cpu(rgb, size) if rgb.device.type == "cpu" else resize_on_device(rgb, size)


def _resize_on_cpu(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) -> (B, 3, *size) uint8, by OpenCV."""
    method = interpolation((rgb.shape[2], rgb.shape[3]), size)
    pictures = rgb.permute(0, 2, 3, 1).contiguous().numpy()
    small = np.stack([cv2.resize(picture, size[::-1], interpolation=method) for picture in pictures])
    return torch.from_numpy(small).permute(0, 3, 1, 2)


def resize_on_device(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) -> (B, 3, *size) float32, whole numbers 0..255, by two matrix products."""
    rows, columns = _resizing((rgb.shape[2], rgb.shape[3]), size, str(rgb.device))
    return (rows @ rgb.float() @ columns.T).round_().clamp_(0, 255)


@lru_cache(maxsize=256)
def _resizing(before: tuple[int, int], after: tuple[int, int], device: str) -> tuple[Tensor, Tensor]:
    """A resize as matrices, float32: (after, before) for rows and for columns."""
    method = interpolation(before, after)
    grows = tuple(small < large for small, large in zip(before, after))
    rows, columns = (_resize_axis(before[axis], after[axis], method, grows[1 - axis]) for axis in (0, 1))
    return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)


def _resize_axis(before: int, after: int, method: int, other_grows: bool, block: int = 1024) -> NDArray[np.float32]:
    """The matrix (after, before) of a resize along one axis, in blocks: an identity of 10,000 would take 800 MB."""
    identities = (np.eye(before, min(block, before - start), -start) for start in range(0, before, block))
    return np.hstack([resize_rows(identity, after, method, other_grows) for identity in identities]).astype(np.float32)


def blur(rgb: Tensor) -> Tensor:
    """(3, H, W) uint8 RGB -> the same, slightly blurred: the reference's whole numbers 0..255, on the same device."""
    if rgb.device.type == "cpu":
        smooth = cv2.GaussianBlur(rgb.permute(1, 2, 0).contiguous().numpy(), (0, 0), SIGMA)
        return torch.from_numpy(smooth).permute(2, 0, 1)
    return blur_on_device(rgb)


def blur_on_device(rgb: Tensor) -> Tensor:
    """(3, H, W) -> (3, H, W) float32, whole numbers 0..255, by two matrix products."""
    rows, columns = (_blurring(side, str(rgb.device)) for side in rgb.shape[1:])
    return (rows @ rgb.float() @ columns.T + 0.5).floor_()


@lru_cache(maxsize=256)
def _blurring(side: int, device: str) -> Tensor:
    """The blur along one axis, (side, side) float32."""
    rows = cv2.sepFilter2D(np.eye(side), -1, np.ones(1), KERNEL)
    return torch.from_numpy(rows).float().to(device)
