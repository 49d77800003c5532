"""The BlazePose landmark network: 33 joints and two auxiliary points of one person a square.

Constants from MediaPipe's pose_landmark graphs (modules/pose_landmark).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from condprep.annotators.openpose.blaze.network import Network
from condprep.annotators.openpose.blaze.squares import ArrayRows, Squares, run_in_chunks

SIZE = 256  # pixels, side of the network's input
CELLS = 64  # side of its heatmaps
POINTS = 39  # landmarks: 0-32 the body, 33 the mid hip, 34 a point of the circle around the body, then unused ones
WINDOW = 7  # cells, side of the heatmap's part that refines a landmark
MIN_PEAK = 0.5  # of a heatmap in that part, else the landmark stays as it is


@dataclass(frozen=True)
class Poses(ArrayRows):
    """N people."""

    picture: np.ndarray  # (N,) int64, which picture of the batch
    flag: np.ndarray  # (N,) float64, 0 to 1: the network's belief that there is a person
    points: np.ndarray  # (N, 39, 2) float64, pixels of the picture
    confidence: np.ndarray  # (N, 39) float64, 0 to 1: visibility x presence


class Landmarker:
    """The network with its decoding. `chunk`: people a forward."""

    def __init__(self, path: Path, device: str, chunk: int) -> None:
        self.network = Network(path, size=SIZE, outputs={0: (POINTS * 5,), 1: (1,), 3: (CELLS, CELLS, POINTS)}).to(
            device
        )
        self.chunk = chunk

    def __call__(self, rgb: Tensor, regions: Squares) -> Poses:
        """The pose in each region."""
        if not len(regions):
            return Poses(regions.picture, np.zeros(0), np.zeros((0, POINTS, 2)), np.zeros((0, POINTS)))
        chunks = run_in_chunks(self._read, rgb, regions, SIZE, self.chunk, replicate=True)
        values = torch.cat([torch.cat(outputs, 1) for outputs in chunks]).double().cpu().numpy()
        flag = np.where(np.isfinite(values).all(1), values[:, 0], 0)  # a user's own weights can give anything
        landmarks = values[:, 1:].reshape(-1, POINTS, 3)
        return Poses(regions.picture, flag, regions.place(landmarks[..., :2]), landmarks[..., 2])

    def _read(self, seen: Tensor) -> list[Tensor]:
        """(n, 3, 256, 256), 0..255 -> flag (n, 1), landmarks (n, 39 * 3): x, y in units of the region, confidence."""
        values, flag, heatmaps = self.network(seen / 255)
        values = values.view(-1, POINTS, 5)  # x, y, z, visibility, presence
        confidence = values[..., 3:].sigmoid().prod(-1, keepdim=True)
        return [flag, torch.cat([refine(values[..., :2] / SIZE, heatmaps), confidence], -1).flatten(1)]


def refine(points: Tensor, heatmaps: Tensor) -> Tensor:
    """Each point moved to the centre of mass of its heatmap around it, where the heatmap has a peak there.

    points: (n, K, 2), x and y, 0..1; heatmaps: (n, K, h, w) logits -> (n, K, 2).
    """
    height, width = heatmaps.shape[2:]
    cell = (points * torch.tensor([width, height], device=points.device)).floor()
    offset = torch.arange(WINDOW, device=points.device) - WINDOW // 2
    x, y = cell[..., :1] + offset, cell[..., 1:] + offset  # (n, K, 7) each
    inside = ((x >= 0) & (x < width))[..., None, :] & ((y >= 0) & (y < height))[..., :, None]
    index = y.clamp(0, height - 1)[..., :, None] * width + x.clamp(0, width - 1)[..., None, :]
    mass = heatmaps.flatten(2).gather(2, index.long().flatten(2)).view(index.shape).sigmoid() * inside
    total = mass.sum((2, 3)).clamp_min(1e-9)
    centre = torch.stack([(mass.sum(2) * x).sum(2) / width, (mass.sum(3) * y).sum(2) / height], -1) / total[..., None]
    return torch.where(mass.amax((2, 3))[..., None] >= MIN_PEAK, centre, points)
