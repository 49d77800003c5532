"""Bodies drawn as ControlNet was trained on them: byte for byte the pictures of controlnet_aux."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from condprep.annotators.openpose.keypoints import LIMBS, Body, present

STICK = 4  # half the width of a limb, and the radius of a joint, pixels

# RGB, one a joint; the limbs take the first 17 at 60 %
COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85)),
    *((0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255)),
    *((255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
DRAWN_LIMBS = LIMBS[:17]


def draw_bodies(people: Sequence[Body], height: int, width: int) -> NDArray[np.uint8]:
    """Bodies (18, 3) in pixels -> (height, width, 3) uint8 RGB, black where there is nobody.

    Every joint that is not 0, 0, 0 is drawn, whatever its confidence; later people cover earlier ones.
    """
    canvas = np.zeros((height, width, 3), np.uint8)
    # To the unit square and back, as the reference goes: the rounding can move a joint to the pixel before.
    size = np.array([width, height], np.float64)
    for body in people:
        _draw(canvas, body[:, :2].astype(np.float64) / size * size, present(body))
    return canvas


def _draw(canvas: NDArray[np.uint8], points: NDArray[np.float64], there: NDArray[np.bool_]) -> None:
    """One body onto the canvas: points (18, 2) as x, y; the limbs first, the joints over them."""
    for (a, b), colour in zip(DRAWN_LIMBS, COLOURS):
        if there[a] and there[b]:
            cv2.fillConvexPoly(canvas, _limb(points[a], points[b]), [c * 3 // 5 for c in colour])
    for (x, y), drawn, colour in zip(points, there, COLOURS):
        if drawn:
            cv2.circle(canvas, (int(x), int(y)), STICK, colour, thickness=-1)


def _limb(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.int32]:
    """The outline (N, 2) of an ellipse from a to b: whole pixels and degrees, truncated as the reference does."""
    x, y = (a + b) / 2
    dx, dy = a - b
    angle = int(math.degrees(math.atan2(dy, dx)))
    length = (dx**2 + dy**2) ** 0.5
    return np.array(cv2.ellipse2Poly((int(x), int(y)), (int(length / 2), STICK), angle, 0, 360, 1), np.int32)
