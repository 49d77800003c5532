"""Pictures of hands -> their 21 points, many hands at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from condprep.annotators.openpose.inputs import blur, centre, resize_as_reference
from condprep.annotators.openpose.keypoints import HAND_POINTS, Points
from condprep.annotators.openpose.network import STRIDE
from condprep.annotators.openpose.operators import resize_rows

SIDES = (184, 368, 552, 736)  # of the network's input, pixels: each hand is seen in four sizes,
SIDE = 128  # whose heatmaps are averaged at this size
SIGMA = 3.0  # of the smoothing before the threshold, pixels of those maps
THRESHOLD = 0.05


class Hands:
    """Finds the points of hands with a network as `PointNetwork(22)`, which it moves nowhere."""

    points = HAND_POINTS

    def __init__(self, network: nn.Module, dtype: torch.dtype, pixels: int) -> None:
        """dtype: in which the network computes. pixels: of its input in one forward; bounds the memory."""
        self._network, self._dtype, self._pixels = network, dtype, pixels

    def __call__(self, crops: Sequence[Tensor]) -> list[Points]:
        """N pictures (3, h, w) uint8 RGB, squares of any size -> the points of each (21, 3), in its pixels."""
        if not crops:
            return []
        blurred = [blur(crop) for crop in crops]
        maps = torch.stack([self._maps(blurred, side) for side in SIDES]).mean(0)
        smoothing = _smoothing(str(maps.device))
        masks = smoothing @ maps @ smoothing.T > THRESHOLD
        found = zip(crops, maps.float().cpu().numpy(), masks.byte().cpu().numpy())
        return [_points(hand, mask, crop.shape[1]) for crop, hand, mask in found]

    def _maps(self, crops: Sequence[Tensor], side: int) -> Tensor:
        """N pictures -> what the network sees in them at this size, (N, 21, 128, 128) float64."""
        enlarging = _enlarging(side, str(crops[0].device))
        together = max(1, self._pixels // side**2)
        parts = []
        for start in range(0, len(crops), together):
            squares = [resize_as_reference(crop[None], (side, side)) for crop in crops[start : start + together]]
            seen = centre(torch.cat(squares)).to(self._dtype, memory_format=torch.channels_last)
            parts.append(enlarging @ self._network(seen)[:, :HAND_POINTS].double() @ enlarging.T)
        return torch.cat(parts)


def _points(maps: NDArray[np.float32], masks: NDArray[np.uint8], side: int) -> Points:
    """Heatmaps (21, 128, 128) of a hand of side x side pixels and where they are high -> its points (21, 3)."""
    points = np.zeros((HAND_POINTS, 3), np.float32)
    for point, heatmap, mask in zip(points, maps, masks):
        inside = np.where(_strongest(heatmap, mask), heatmap, 0)
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        x, y = x * side // SIDE, y * side // SIDE
        # In the reference the first row and column mean: not found.
        if x and y:
            point[:] = x, y, inside.max()
    return points


def _strongest(heatmap: NDArray[np.float32], mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The connected part of the mask that holds the most of the heatmap; an empty mask has none."""
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    held = np.bincount(labels.ravel(), heatmap.ravel(), count)[1:]
    return labels == 1 + held.argmax() if count > 1 else np.zeros(mask.shape, bool)


@lru_cache(maxsize=16)
def _enlarging(side: int, device: str) -> Tensor:
    """The reference's chain along one axis, the network's cells x 8, then to 128 pixels: (128, cells) float64."""
    whole = resize_rows(np.eye(side // STRIDE), side, cv2.INTER_LANCZOS4)
    return torch.from_numpy(resize_rows(whole, SIDE, cv2.INTER_AREA)).to(device)


@lru_cache(maxsize=4)
def _smoothing(device: str) -> Tensor:
    """The Gaussian along one axis, (128, 128) float64."""
    return torch.from_numpy(gaussian_filter1d(np.eye(SIDE), SIGMA, axis=0)).to(device)
