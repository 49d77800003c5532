"""Heatmaps and PAFs as a network would give them for people in known places, clean or noisy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from condprep.annotators.openpose.keypoints import LIMBS
from condprep.annotators.openpose.network import HEATMAPS, PAFS
from condprep.annotators.openpose.operators import Frame
from condprep.annotators.openpose.peaks import PAF_OF_LIMB

SPREAD = 0.875  # of a joint in cells: 7 px at stride 8, as the network was trained
REACH = 1.0  # of a limb to its sides, cells

# An upright person in a unit square, x and y: a likely pose to draw variations of.
STANDING = np.array(
    [
        *[(0.5, 0.08), (0.5, 0.2), (0.38, 0.2), (0.3, 0.36), (0.28, 0.5), (0.62, 0.2), (0.7, 0.36), (0.72, 0.5)],
        *[(0.42, 0.52), (0.41, 0.75), (0.4, 0.97), (0.58, 0.52), (0.59, 0.75), (0.6, 0.97)],
        *[(0.47, 0.06), (0.53, 0.06), (0.43, 0.08), (0.57, 0.08)],
    ]
)


def random_people(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 18, 2) joints, x and y as shares of the picture, NaN where hidden. Small and large, overlapping at will."""
    size = rng.uniform(0.2, 1.2, (count, 1, 1))
    people = STANDING * size + rng.uniform(-0.3, 0.9, (count, 1, 2)) + rng.normal(0, 0.05, (count, 18, 2)) * size
    people[rng.random((count, 18)) < rng.choice([0, 0.1, 0.4])] = np.nan
    return people


def maps(rng: np.random.Generator, people: np.ndarray, frame: Frame, noise: float) -> tuple[Tensor, Tensor]:
    """Heatmaps (1, 19, h, w) and PAFs (1, 38, h, w) float32 of people (N, 18, 2), more or less certain of each part."""
    grid = np.stack(np.meshgrid(*(np.arange(cells) + 0.5 for cells in frame.cells[::-1])), 2)  # (h, w, 2) as x, y
    places = people * np.array(frame.inner[::-1]) / 8  # in cells
    heatmaps, pafs = np.zeros((HEATMAPS, *frame.cells)), np.zeros((PAFS, *frame.cells))
    for person in places:
        for joint, place in enumerate(person):
            blob = np.exp(-np.square(grid - place).sum(2) / (2 * SPREAD**2)) * rng.uniform(0.2, 1)
            heatmaps[joint] = np.fmax(heatmaps[joint], blob)
        for (a, b), channels in zip(LIMBS, PAF_OF_LIMB):
            pafs[list(channels)] += _limb(grid, person[a], person[b]) * rng.uniform(0.1, 1)
    heatmaps += noise * rng.normal(size=heatmaps.shape)
    pafs += noise * rng.normal(size=pafs.shape)
    return torch.tensor(heatmaps[None]).float(), torch.tensor(pafs[None]).float()


def _limb(grid: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The unit vector from a to b in the cells near that line, (2, h, w); zeros where an end is hidden."""
    length = np.linalg.norm(b - a)
    if not length > 0:
        return np.zeros((2, *grid.shape[:2]))
    x, y = unit = (b - a) / length
    along, across = (grid - a) @ unit, (grid - a) @ (-y, x)
    near = (along >= -REACH) & (along <= length + REACH) & (abs(across) <= REACH)
    return unit[:, None, None] * near


class Crowd(torch.nn.Module):
    """A body network that sees the same people whatever the picture."""

    def __init__(self, seed: int, count: int, height: int, width: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.maps = maps(rng, random_people(rng, count), Frame.of(height, width, 184), 0.0)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part.to(x.device).expand(len(x), -1, -1, -1) for part in self.maps)
