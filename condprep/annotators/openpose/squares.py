"""Square windows of pictures: where a network looks.

Positions are picture pixels with whole numbers at the centres of pixels: a picture spans -0.5 to width - 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LEVEL = 16  # a square is shrunk by at most 2 ** 16; no picture asks for more


class ArrayRows:
    """A dataclass of arrays that share their first dimension: indexing takes the same rows of each."""

    def __getitem__(self, rows: Any) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, at least one, in order."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class Squares(ArrayRows):
    """N squares of a batch of pictures."""

    picture: np.ndarray  # (N,) int64, which picture of the batch
    centre: np.ndarray  # (N, 2) float64, x and y
    side: np.ndarray  # (N,) float64
    angle: np.ndarray  # (N,) float64, radians, clockwise as seen

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """The square's own x and y axis in the picture, (N, 2) each, as long as its side."""
        cos, sin = np.cos(self.angle) * self.side, np.sin(self.angle) * self.side
        return np.stack([cos, sin], -1), np.stack([-sin, cos], -1)

    def place(self, points: np.ndarray) -> np.ndarray:
        """(N, K, 2) positions inside the squares, 0 to 1 -> picture pixels."""
        right, down = self.axes()
        x, y = np.split(points - 0.5, 2, axis=-1)
        placed: np.ndarray = self.centre[:, None] + x * right[:, None] + y * down[:, None]
        return placed


def crop(rgb: Tensor, squares: Squares, size: int) -> Tensor:
    """What the squares see, at size x size points, each the mean of the pixels that it stands for.

    (B, 3, H, W) uint8 -> (N, 3, size, size) float32, 0..255, channels_last, black outside the picture. What a square
    sees depends on its own picture alone.
    """
    seen = torch.empty((len(squares), 3, size, size), device=rgb.device, memory_format=torch.channels_last)
    levels = np.ceil(np.log2(np.maximum(squares.side, 1) / size)).clip(0, MAX_LEVEL).astype(int)
    for picture, level in np.unique(np.stack([squares.picture, levels], 1), axis=0):
        rows = np.flatnonzero((squares.picture == picture) & (levels == level))
        seen[rows] = _sample(rgb[picture], squares[rows], size, int(level))
    return seen


def _sample(picture: Tensor, squares: Squares, size: int, level: int) -> Tensor:
    """Squares of one picture whose sides are at most 2 ** level * size pixels.

    Bilinear sampling alone skips pixels where it shrinks. So the picture is brought down by whole blocks to at most
    twice the resolution that is wanted, and each point becomes the mean of 2 x 2 samples.
    """
    block = 2 ** max(level - 1, 0)
    points = size * 2 if level else size
    source = F.avg_pool2d(picture[None].float(), block, ceil_mode=True) if block > 1 else picture[None].float()
    span = np.array([source.shape[3], source.shape[2]]) * block  # width and height, pixels
    grid = _grid(squares, points, span, picture.device)
    seen = F.grid_sample(source.expand(len(squares), -1, -1, -1), grid, align_corners=False)
    return F.avg_pool2d(seen, 2) if level else seen


def _grid(squares: Squares, points: int, span: np.ndarray, device: torch.device) -> Tensor:
    """Where to sample, as grid_sample takes it, (N, points, points, 2): -1 to 1 is `span`, width and height."""
    scale = 2 / span
    centre, (right, down) = (squares.centre + 0.5) * scale - 1, squares.axes()
    frame = np.stack([centre, right * scale, down * scale])[:, :, None, None]
    start, across, along = torch.tensor(frame, dtype=torch.float32, device=device).unbind()  # (N, 1, 1, 2) each
    steps = (torch.arange(points, device=device) + 0.5) / points - 0.5
    return start + steps[:, None] * across + steps[:, None, None] * along


def run_in_chunks(
    network: Callable[[Tensor], list[Tensor]], rgb: Tensor, squares: Squares, size: int, chunk: int
) -> list[list[Tensor]]:
    """The network on what the squares see, always `chunk` at a time, the last chunk filled up with its last square.

    A convolution's rounding depends on the size of its batch: with one size, a result is the same bits whatever else
    is in the batch. It also bounds the memory. Returns per chunk the outputs for its real squares.
    """
    results = []
    for start in range(0, len(squares), chunk):
        rows = np.arange(start, start + chunk).clip(max=len(squares) - 1)
        real = min(chunk, len(squares) - start)
        outputs = network(crop(rgb, squares[rows], size))
        results.append([output[:real] for output in outputs])
    return results
