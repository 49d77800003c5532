"""How the joints of a pose map may lie on those found in its picture: as they are, turned, scaled, shifted.

Two joints fit when they are the same joint and close to each other; what is counted is how many do.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from condprep.verification.alignment.registration import UPRIGHT, Orientation
from condprep.verification.poses.joints import Joints

Points = NDArray[np.float64]  # (N, 2) x, y in pixels
JointWeights = NDArray[np.float64]  # (N,) 0..1
ROUNDS = 10  # of a climb, after which it moves no further
JITTER = 0.5  # pixels by which every joint is uncertain at least: they are whole pixels


@dataclass(frozen=True)
class PosePlacement:
    """One way in which the map lies, and how many joints then fit; one that fits less well counts in part."""

    orientation: Orientation = UPRIGHT
    scale: float = 1.0  # of the map about its centre
    shift: tuple[float, float] = (0.0, 0.0)  # pixels of the map, to the right and down
    fitting: float = 0.0


@dataclass(frozen=True)
class Drift:
    """How a map that fits roughly is off, as all joints that fit have it, with standard errors of one axis."""

    shift: tuple[float, float]  # pixels, on average over the joints
    shift_error: float
    growth: float  # of the scale about the middle of the joints, less 1
    growth_error: float
    middle: tuple[float, float]  # of the joints that were found, pixels from the centre of the picture

    @property
    def central(self) -> tuple[float, float]:
        """The shift that is left once the map is scaled back about its centre."""
        x, y = ((d - self.growth * m) / (1 + self.growth) for d, m in zip(self.shift, self.middle))
        return x, y


class Overlay:
    """The joints found in a picture over those of its map."""

    def __init__(self, found: Joints, stored: Joints, size: tuple[int, int], width: float) -> None:
        """size: (height, width) of the picture. width: pixels apart at which a joint counts 0.6."""
        self._found, self._stored = np.nonzero(found.kind[:, None] == stored.kind)
        self._counts = len(found), len(stored)
        self._at, self._map = found.at, stored.at
        self._size, self.width = size, width
        self._centre = np.array([size[1] - 1, size[0] - 1]) / 2

    @property
    def most(self) -> int:
        """How many joints could fit."""
        return min(self._counts)

    def as_it_is(self) -> float:
        """How many joints fit as the map lies."""
        return self._fitting(self._apart(UPRIGHT, 1.0))

    def best(self, orientation: Orientation = UPRIGHT, scale: float = 1.0) -> PosePlacement:
        """The shift at which most joints fit."""
        apart = self._apart(orientation, scale)
        if not len(apart):
            return PosePlacement(orientation, scale)
        shift = self._climb(apart, self._crowd(apart))
        return PosePlacement(orientation, scale, _pair(shift), self._fitting(apart - shift))

    def drift(self, start: PosePlacement, width: float) -> Drift:
        """How the map is off from upright, as it is at `start` or nearly so: a shift and a growth fitted together.

        width: as that of the overlay, which it approaches from there; less, since those joints shall decide that are nearer.
        """
        apart, at = self._apart(UPRIGHT, 1.0), self._at[self._found] - self._centre
        growth, middle, shift = start.scale - 1, np.zeros(2), np.array(start.shift) * start.scale
        for narrower in np.geomspace(self.width, width, ROUNDS):
            rest = apart - shift - growth * (at - middle)
            near = _near(rest, narrower)
            total = max(float(near.sum()), 1e-9)
            middle, shift = near @ at / total, near @ apart / total
            arms = at - middle
            spread = max(float(near @ (arms**2).sum(1)), 1e-9)
            growth = float(near @ (arms * (apart - shift)).sum(1)) / spread
        rest = apart - shift - growth * arms
        noise = float(near @ (rest**2).sum(1)) / (2 * total) + JITTER**2
        return Drift(_pair(shift), (noise / total) ** 0.5, growth, (noise / spread) ** 0.5, _pair(middle))

    def _apart(self, orientation: Orientation, scale: float) -> Points:
        """(P, 2): from every found joint to every one of its kind in the map, once that is upright and scaled back."""
        upright = upright_points(self._map, self._size, orientation)
        return np.asarray(((upright - self._centre) / scale + self._centre)[self._stored] - self._at[self._found])

    def _fitting(self, apart: Points) -> float:
        """How many joints fit, each of them once."""
        near, sums = _near(apart, self.width), []
        for joints, count in zip((self._found, self._stored), self._counts):
            best = np.zeros(count)
            np.maximum.at(best, joints, near)
            sums.append(float(best.sum()))
        return min(sums)

    def _crowd(self, apart: Points) -> Points:
        """(2,): about where most of the differences lie."""
        cells = np.round((apart - apart.min(0)) / self.width).astype(np.intp)
        columns, rows = cells.max(0) + 1
        counts = np.bincount(cells @ (1, columns), minlength=columns * rows).reshape(rows, columns)
        crowded = cv2.GaussianBlur(counts.astype(np.float32), (5, 5), 1, borderType=cv2.BORDER_CONSTANT)
        row, column = np.unravel_index(crowded.argmax(), crowded.shape)
        start: Points = np.array([column, row]) * self.width + apart.min(0)
        return start

    def _climb(self, apart: Points, shift: Points) -> Points:
        """To the middle of the differences around it: the mean shift of a Gaussian."""
        for _ in range(ROUNDS):
            near = _near(apart - shift, self.width)
            shift = near @ apart / max(float(near.sum()), 1e-9)
        return shift


def upright_points(at: Points, size: tuple[int, int], orientation: Orientation) -> Points:
    """Where points of a map lie once it is turned and mirrored back to (height, width). (N, 2) -> (N, 2)."""
    height, width = size[:: -1 if orientation.quarters % 2 else 1]
    x, y = at.T
    for _ in range(orientation.quarters):  # clockwise
        x, y, height, width = height - 1 - y, x, width, height
    return np.column_stack([width - 1 - x if orientation.mirrored else x, y])


def _near(apart: Points, width: float) -> JointWeights:
    return np.asarray(np.exp(-(apart**2).sum(1) / (2 * width**2)))


def _pair(point: Points) -> tuple[float, float]:
    return float(point[0]), float(point[1])
