"""Pictures of faces -> their 70 points, many faces at once.

The network has a 71st heatmap, the background. The reference takes its highest place for one more point and draws it,
and ControlNet was trained on such maps: so we find and draw it too, but keep it out of the column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from condprep.annotators.openpose.inputs import centre, resize_as_reference
from condprep.annotators.openpose.keypoints import Points
from condprep.annotators.openpose.network import STRIDE
from condprep.annotators.openpose.point_network import FACE_MAPS

SIDE = 384  # of the network's input, pixels
CELLS = SIDE // STRIDE
CANDIDATES = 2 * CELLS  # rows or columns that can hold a highest value
THRESHOLD = 0.05


class Faces:
    """Finds the points of faces with a network as `PointNetwork(71)`, which it moves nowhere."""

    points = FACE_MAPS

    def __init__(self, network: nn.Module, dtype: torch.dtype, pixels: int) -> None:
        """dtype: in which the network computes. pixels: of its input in one forward; bounds the memory."""
        self._network, self._dtype, self._pixels = network, dtype, pixels

    def __call__(self, crops: Sequence[Tensor]) -> list[Points]:
        """N pictures (3, h, w) uint8 RGB of any sizes -> the points of each (71, 3), in its pixels."""
        if not crops:
            return []
        together = max(1, self._pixels // SIDE**2)
        seen, pixels = list[Tensor](), list[tuple[NDArray[np.int64], NDArray[np.int64]]]()
        for start in range(0, len(crops), together):
            best, ys, xs = self._find(crops[start : start + together])
            seen.append(best)
            pixels.append((ys, xs))
        score, place = torch.cat(seen, 1).cpu().numpy()  # the one wait
        y, x = np.divmod(place.astype(np.int64), CANDIDATES)
        ys, xs = map(np.concatenate, zip(*pixels))
        return list(_points(np.take_along_axis(xs, x, 1), np.take_along_axis(ys, y, 1), score))

    def _find(self, crops: Sequence[Tensor]) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
        """One forward of the network: its highest values and their places (2, N, 71) among the rows and columns (N, 96)."""
        squares = torch.cat([resize_as_reference(crop[None], (SIDE, SIDE)) for crop in crops])
        maps = self._network(centre(squares).to(self._dtype, memory_format=torch.channels_last)).double()
        (rows, ys), (columns, xs) = (_sampling([crop.shape[axis] for crop in crops]) for axis in (1, 2))
        values = rows.to(maps.device)[:, None] @ maps @ columns.to(maps.device).mT[:, None]
        best = values.flatten(2).max(2)
        return torch.stack([best.values, best.indices.double()]), ys, xs


def _points(x: NDArray[np.int64], y: NDArray[np.int64], score: NDArray[np.float64]) -> Points:
    """Pixels and values, each (N, 71) -> points (N, 71, 3), those that are too faint 0, 0, 0."""
    # In the reference the first row and column mean: not found.
    found = (score > THRESHOLD) & (x > 0) & (y > 0)
    return np.where(found[..., None], np.stack([x, y, score], 2), 0).astype(np.float32)


def _sampling(sides: Sequence[int]) -> tuple[Tensor, NDArray[np.int64]]:
    """Sides of N pictures -> matrices (N, 96, 48) float64 from the network's cells to some pixels, and those (N, 96).

    Between two cells the reference's bilinear enlargement is linear, so that it is highest in the first or the last
    pixel there: these suffice, however large the face is.
    """
    chosen = np.stack([_candidates(side) for side in sides])
    matrices = [_enlarging(side)[pixels] for side, pixels in zip(sides, chosen)]
    return torch.stack(matrices), chosen


def _candidates(side: int) -> NDArray[np.int64]:
    """The first and the last pixel between each two cells, in order, (96,); the last one is repeated to that number."""
    cell = np.arange(side) * (CELLS - 1) // max(side - 1, 1)
    new = np.diff(cell, prepend=-1) > 0
    pixels = np.flatnonzero(new | np.append(new[1:], True))
    return np.append(pixels, np.full(CANDIDATES - len(pixels), pixels[-1]))


def _enlarging(side: int) -> Tensor:
    """The bilinear enlargement along one axis, (side, 48) float64."""
    identity = torch.eye(CELLS, dtype=torch.float64)[None]
    return F.interpolate(identity, side, mode="linear", align_corners=True)[0].T
