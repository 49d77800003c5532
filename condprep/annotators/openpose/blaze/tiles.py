"""The views of a picture that the detector gets: in the whole it finds one person, tiles show it the others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from condprep.annotators.openpose.blaze.detector import CIRCLE, HIP, Detections, regions, suppress
from condprep.annotators.openpose.blaze.squares import Squares

# The four numbers below were chosen on four COCO pictures with 12 people: no more than a good start.
ZOOM_OUT = 1.5  # a view of so many times the picture's long side, for people who fill it
TILES = (0.67, 0.45, 0.3)  # sides of tiles, in units of the long side; `scales` says how many of these are used
SCALES = 2 + len(TILES)
OVERLAP = 0.5  # of neighbouring tiles
MAX_PERSON = 1.3  # in units of the tile's side; larger people are seen better by a larger view


@dataclass(frozen=True)
class Views(Squares):
    """Upright squares, each of one scale."""

    scale: np.ndarray  # (N,) int64: 0 the whole picture, 1 zoomed out, from 2 on tiles


def views(pictures: int, height: int, width: int, scales: int) -> Views:
    """The views of every picture of a batch: the whole, zoomed out, then tiles of `scales` sizes."""
    side = max(height, width)
    middle = [((width - 1) / 2, (height - 1) / 2)]
    sizes = [(side, middle), (side * ZOOM_OUT, middle)]
    sizes += [(side * tile, _centres(height, width, side * tile)) for tile in TILES[:scales]]
    return Views.join(
        [_upright(i, centres, side, s) for i in range(pictures) for s, (side, centres) in enumerate(sizes)]
    )


def _upright(picture: int, centres: list[tuple[float, float]], side: float, scale: int) -> Views:
    n = len(centres)
    return Views(np.full(n, picture), np.array(centres), np.full(n, float(side)), np.zeros(n), np.full(n, scale))


def _centres(height: int, width: int, side: float) -> list[tuple[float, float]]:
    return [(x, y) for y in _along(height, side) for x in _along(width, side)]


def _along(length: int, side: float) -> list[float]:
    """Centres of tiles that cover an axis and overlap by at least OVERLAP; one in the middle if it is that short."""
    if length <= side:
        return [(length - 1) / 2]
    count = math.ceil((length - side) / (side * (1 - OVERLAP))) + 1
    return list(np.linspace(side / 2, length - side / 2, count) - 0.5)


def candidates(found: Detections, seen: Views) -> Squares:
    """Where the landmark network shall look: one region a person in each picture and scale."""
    found = found[_well_seen(found, seen)]
    group = (seen.picture * SCALES + seen.scale)[found.view]
    people = [suppress(found[group == one]) for one in np.unique(group)]
    return _regions(Detections.join([found[:0], *people]), seen)


def _well_seen(found: Detections, seen: Views) -> np.ndarray:
    """(N,) bool: which detections their view saw well enough. A view of the whole picture sees everybody so.

    A tile does not where the hip is outside, the face is cut by its edge, or the person is too large for it.
    """
    view = seen[found.view]
    inside = np.abs(found.points - view.centre[:, None]) <= view.side[:, None, None] / 2  # (N, 4, 2)
    face, hip = inside[:, :2].all((1, 2)), inside[:, HIP].all(1)
    person = _regions(found, seen).side
    well: np.ndarray = (view.scale < 2) | (face & hip & (person <= MAX_PERSON * view.side))
    return well


def _regions(found: Detections, seen: Views) -> Squares:
    return regions(seen.picture[found.view], found.points[:, HIP], found.points[:, CIRCLE])
