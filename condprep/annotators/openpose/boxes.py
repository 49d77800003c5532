"""Where the hands and the face of a body are looked for: the reference's squares."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from condprep.annotators.openpose.keypoints import JOINTS, Body, Points, present

SMALLEST = 20  # pixels; below that a part is not looked for

ARMS = {
    side: [JOINTS.index(f"{side}_{joint}") for joint in ("shoulder", "elbow", "wrist")] for side in ("left", "right")
}
NOSE = JOINTS.index("nose")
HEAD = [JOINTS.index(joint) for joint in ("right_eye", "left_eye", "right_ear", "left_ear")]
REACHES = np.array([3.0, 3.0, 1.5, 1.5])  # half the face's square, in distances from the nose to these


class Box(NamedTuple):
    """A square of the picture, pixels. It may reach over the right and the bottom border; what is there is cut off."""

    x: int
    y: int
    side: int

    def cut(self, picture: Tensor) -> Tensor:
        """(3, H, W) -> the square's pixels, (3, h, w)."""
        return picture[:, self.y : self.y + self.side, self.x : self.x + self.side]

    def place(self, points: Points) -> Points:
        """Points (N, 3) in pixels of the square -> in pixels of the picture; missing ones stay 0, 0, 0."""
        return np.where(present(points)[:, None], points + np.array([self.x, self.y, 0], np.float32), points)


def hand_box(body: Body, side: str, height: int, width: int) -> Box | None:
    """Beyond the "left" or "right" wrist, along the forearm. None: the arm is not whole, or the square too small."""
    arm = body[ARMS[side]].astype(np.float64)
    if not present(arm).all():
        return None
    shoulder, elbow, wrist = arm[:, :2]
    size = 1.5 * max(np.linalg.norm(wrist - elbow), 0.9 * np.linalg.norm(elbow - shoulder))
    x, y = np.maximum(wrist + 0.33 * (wrist - elbow) - size / 2, 0)
    return _box(x, y, min(size, width - x, height - y))


def face_box(body: Body, height: int, width: int) -> Box | None:
    """About the nose, as far as the eyes and ears say. None: no nose, none of those, or the square is too small."""
    nose, head = body[NOSE].astype(np.float64), body[HEAD].astype(np.float64)
    there = present(head)
    if not nose.any() or not there.any():
        return None
    reach = (np.abs(head - nose)[:, :2].max(1) * REACHES)[there].max()
    x, y = np.maximum(nose[:2] - reach, 0)
    # The reference asks whether half the square reaches over the border.
    sides = [limit - start if start + reach > limit else 2 * reach for start, limit in ((x, width), (y, height))]
    return _box(x, y, min(sides))


def _box(x: float, y: float, side: float) -> Box | None:
    return Box(int(x), int(y), int(side)) if side >= SMALLEST else None
