"""Small networks in place of those for hands and faces: heatmaps of known points, and such as depend on the picture."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F

SPREAD = 0.02  # of a point in shares of the picture


def photo(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB, nowhere of one colour: where a heatmap is level, rounding says where its top is."""
    grain = np.random.default_rng(0).integers(-40, 40, (height, width, 3))
    return (cv2.resize(data.astronaut(), (width, height)).astype(int) // 2 + 64 + grain).astype(np.uint8)


class Blobs(nn.Module):
    """Heatmaps of points in known places, whatever the picture."""

    def __init__(self, points: np.ndarray, noise: float = 0.0) -> None:
        """points: (maps, 3) as x, y in shares of the picture and a height; 0 leaves the map empty."""
        super().__init__()
        self.points, self.noise = torch.tensor(points).float(), noise

    def forward(self, x: Tensor) -> Tensor:
        height, width = (side // 8 for side in x.shape[2:])
        ys, xs = ((torch.arange(cells) + 0.5) / cells for cells in (height, width))
        px, py, score = self.points.T[:, :, None]
        across, down = (torch.exp(-((at - p) ** 2) / (2 * SPREAD**2)) for at, p in ((xs, px), (ys, py)))
        maps = score[..., None] * down[:, :, None] * across[:, None]
        generator = torch.Generator().manual_seed(height)
        maps = maps + self.noise * torch.randn(maps.shape, generator=generator)
        return maps.expand(len(x), -1, -1, -1)


class Tints(nn.Module):
    """Heatmaps that tell where the picture has which colour: noise from photographs, but the same noise every time."""

    def __init__(self, maps: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("mixing", torch.randn(maps, 3, 1, 1, generator=generator))
        self.register_buffer("floor", torch.rand(maps, generator=generator) * 1.2)

    def forward(self, x: Tensor) -> Tensor:
        colours = F.avg_pool2d(x, 8)
        return F.relu(F.conv2d(colours, self.mixing.to(x), -self.floor.to(x)))


def as_batch(*rgb: np.ndarray) -> Tensor:
    """Pictures (H, W, 3) of one size as a batch (B, 3, H, W)."""
    return torch.from_numpy(np.stack(rgb)).permute(0, 3, 1, 2)
