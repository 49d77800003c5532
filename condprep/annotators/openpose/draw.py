"""People drawn as ControlNet was trained on them: byte for byte the pictures of controlnet_aux."""

from __future__ import annotations

import math
from collections.abc import Sequence
from colorsys import hsv_to_rgb
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from condprep.annotators.openpose.keypoints import LIMBS, Body, Points, Pose, column_value, present
from condprep.types import Maps, Seen

STICK = 4  # half the width of a limb, and the radius of a joint, pixels

# RGB, one a joint; the limbs take the first 17 at 60 %
COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85)),
    *((0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255)),
    *((255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
DRAWN_LIMBS = LIMBS[:17]

# From the wrist (0) along each finger; RGB once round the wheel of hues.
BONES = tuple((0 if i % 4 == 0 else i, i + 1) for i in range(20))
HUES = tuple(tuple(255 * part for part in hsv_to_rgb(i / len(BONES), 1.0, 1.0)) for i in range(len(BONES)))
HAND_POINT, HAND_RADIUS, BONE = (0, 0, 255), 4, 2  # RGB; pixels
FACE_POINT, FACE_RADIUS = (255, 255, 255), 3


People = tuple[Sequence[Pose], int, int]  # in a picture, and its height and width


def draw_people(people: People) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """A map (H, W, 3) uint8 RGB, and the further column of its row."""
    return draw_poses(*people), {"keypoints": column_value(people[0])}


def drawn(seen: Seen) -> Maps:
    """The people of a batch, drawn on the host (B, 3, H, W) uint8 RGB."""
    import torch

    pictures, columns = zip(*map(draw_people, seen.found))
    maps = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return Maps(maps, {"keypoints": [one["keypoints"] for one in columns]})


def draw_bodies(people: Sequence[Body], height: int, width: int) -> NDArray[np.uint8]:
    """Bodies (18, 3) in pixels -> (height, width, 3) uint8 RGB, black where there is nobody."""
    return draw_poses([Pose(body) for body in people], height, width)


def draw_poses(people: Sequence[Pose], height: int, width: int) -> NDArray[np.uint8]:
    """People in pixels -> (height, width, 3) uint8 RGB, black where there is nobody.

    Every joint that is not 0, 0, 0 is drawn, whatever its confidence; later people cover earlier ones. Points of hands
    and faces in the first row or column of the picture are left out, as the reference leaves them.
    """
    canvas = np.zeros((height, width, 3), np.uint8)
    for pose in people:
        _draw_body(canvas, pose.body)
        for hand in (pose.left_hand, pose.right_hand):
            if hand is not None:
                _draw_hand(canvas, hand)
        if pose.face is not None:
            _draw_points(canvas, _pixels(canvas, pose.face), FACE_RADIUS, FACE_POINT)
    return canvas


def _draw_body(canvas: NDArray[np.uint8], body: Body) -> None:
    """The limbs first, the joints over them."""
    # To the unit square and back, as the reference goes: the rounding can move a joint to the pixel before.
    size = np.array(canvas.shape[1::-1], np.float64)
    points, there = body[:, :2].astype(np.float64) / size * size, present(body)
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


def _draw_hand(canvas: NDArray[np.uint8], hand: Points) -> None:
    """The bones first, the points over them."""
    pixels = _pixels(canvas, hand)
    for (a, b), colour in zip(BONES, HUES):
        if pixels[[a, b]].min() > 0:
            cv2.line(canvas, pixels[a].tolist(), pixels[b].tolist(), colour, thickness=BONE)
    _draw_points(canvas, pixels, HAND_RADIUS, HAND_POINT)


def _draw_points(
    canvas: NDArray[np.uint8], pixels: NDArray[np.int64], radius: int, colour: tuple[int, int, int]
) -> None:
    for x, y in pixels.tolist():
        if x > 0 and y > 0:
            cv2.circle(canvas, (x, y), radius, colour, thickness=-1)


def _pixels(canvas: NDArray[np.uint8], points: Points) -> NDArray[np.int64]:
    """Points (N, 3) -> x, y (N, 2), to the unit square and back as for bodies, but in float32, as the reference goes."""
    size = np.array(canvas.shape[1::-1], np.float32)
    return (points[:, :2].astype(np.float32) / size * size).astype(np.int64)
