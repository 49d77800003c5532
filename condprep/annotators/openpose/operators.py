"""The reference's resizing and smoothing as small matrices, one an axis.

controlnet_aux brings each of 57 small network maps to the size of the picture (x 8, crop, resize) and smooths 18 of
them. Every step is linear and acts on rows and columns separately, so the whole chain is two matrices:
`picture = Y @ cells @ X.T`. They are found by sending an identity matrix through the very same OpenCV and SciPy calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from condprep.annotators.openpose.network import STRIDE

SIGMA = 3.0  # pixels of the picture
WIDEST = 8  # network input, width : height; keeps the memory for a 10,000 x 10 picture in bounds


@dataclass(frozen=True, slots=True)
class Frame:
    """How pictures of one size go through the network. All sizes are (height, width)."""

    picture: tuple[int, int]
    inner: tuple[int, int]  # the picture, resized for the network
    cells: tuple[int, int]  # the network's output; its input is STRIDE times that, padded right and below

    @classmethod
    def of(cls, height: int, width: int, network_height: int) -> Frame:
        """The frame in which the network sees a picture `network_height` high (less where it is wider than 8 : 1)."""
        scale = min(network_height / height, WIDEST * network_height / width)
        inner = max(int(height * scale), 1), max(int(width * scale), 1)
        return cls((height, width), inner, (-(-inner[0] // STRIDE), -(-inner[1] // STRIDE)))


@dataclass(frozen=True, slots=True)
class Operators:
    """Cells of the network -> pixels of the picture, float64: (H, h) for rows and (W, w) for columns."""

    raw: tuple[Tensor, Tensor]
    smooth: tuple[Tensor, Tensor]  # raw, then the Gaussian


@lru_cache(maxsize=64)
def operators(frame: Frame, device: str) -> Operators:
    """The matrices for a frame, on the device."""
    method = interpolation(frame.inner, frame.picture)
    grows = tuple(after > before for before, after in zip(frame.inner, frame.picture))
    raw = [
        _enlarge(frame.cells[axis], frame.inner[axis], frame.picture[axis], method, other_grows=grows[1 - axis])
        for axis in (0, 1)
    ]
    smooth = [gaussian_filter1d(matrix, SIGMA, axis=0) for matrix in raw]
    raw_y, raw_x, smooth_y, smooth_x = (torch.from_numpy(matrix).to(device) for matrix in (*raw, *smooth))
    return Operators((raw_y, raw_x), (smooth_y, smooth_x))


def interpolation(before: tuple[int, int], after: tuple[int, int]) -> int:
    """The reference's choice of an OpenCV interpolation: AREA where a picture shrinks on the whole, else LANCZOS4."""
    return cv2.INTER_AREA if sum(after) < sum(before) else cv2.INTER_LANCZOS4


def resize_rows(matrix: NDArray[np.float64], rows: int, method: int, other_grows: bool = False) -> NDArray[np.float64]:
    """What cv2.resize does to the rows of a picture whose columns it resizes too: (n, m) -> (rows, m).

    OpenCV's AREA becomes another filter as soon as one of the two axes grows. So where the columns grow, ours are
    doubled, which in that filter only repeats them.
    """
    repeats = 2 if other_grows and method == cv2.INTER_AREA else 1
    resized = cv2.resize(matrix, (matrix.shape[1] * repeats, rows), interpolation=method)
    return np.ascontiguousarray(resized[:, ::repeats])


def _enlarge(cells: int, inner: int, pixels: int, method: int, other_grows: bool) -> NDArray[np.float64]:
    """One axis of the reference's chain: x 8, without the padding, to the picture's pixels: (pixels, cells)."""
    whole = resize_rows(np.eye(cells), cells * STRIDE, cv2.INTER_LANCZOS4)
    return resize_rows(whole[:inner], pixels, method, other_grows)
