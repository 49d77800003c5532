"""The joints that a pose map shows, told by the colours of their discs: every drawing of OpenPose's bodies has these.

A joint says more than the edges of a drawing do: which one it is, so that a mirrored person is none, and where it is to a
fraction of a pixel, so that a dozen of them tell a shift that is smaller than the wobble of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from condprep.annotators.openpose.draw import COLOURS
from condprep.annotators.openpose.keypoints import LIMBS
from condprep.images.decode import Pixels

STEP = 85  # levels: every channel of a joint's colour is a multiple of it, so half of it is what JPEG and resampling may do
HAND = 12  # the joint (left knee) whose colour is also that of the points of hands
COVERED = 0.4  # share of a whole disc that must be seen
BODY = LIMBS[:12]  # without the face, whose parts are shorter
MOST = 64  # discs of a colour: more are no people, and would fill the memory

# 1 + the joint of a colour whose channels are 0..3 steps; 0 where it is none
KINDS = np.zeros(256, np.uint8)
KINDS[np.array(COLOURS) // STEP @ (16, 4, 1)] = np.arange(1, len(COLOURS) + 1)
STEPS = ((np.arange(256) + STEP // 2) // STEP).astype(np.uint8)


@dataclass(frozen=True)
class Joints:
    """N joints of any number of people in a picture."""

    kind: NDArray[np.intp]  # (N,) index of `JOINTS` in condprep/annotators/openpose/keypoints.py
    at: NDArray[np.float64]  # (N, 2) x, y in pixels; the centre of the top left pixel is 0, 0

    def __len__(self) -> int:
        return len(self.kind)


def drawn_joints(drawn: Pixels) -> Joints:
    """The joints of a drawing, (H, W, 3) uint8 RGB on black; none of a grey picture and of one that is no such drawing.

    A disc that a later one covers in part is where its visible part is.
    """
    discs = _discs(drawn) if drawn.ndim == 3 else np.empty((0, 4))
    whole = np.median(discs[:, 3]) if len(discs) else 0
    discs = _without_hands(discs[discs[:, 3] >= COVERED * whole])
    kinds = discs[:, 0].astype(np.intp)
    kept = len(kinds) if np.bincount(kinds, minlength=1).max() <= MOST else 0
    return Joints(kinds[:kept], discs[:kept, 1:3])


def _discs(drawn: Pixels) -> NDArray[np.float64]:
    """(N, 4): kind, x, y and area of what is left of each disc without its rim, which the bones of hands do not outlive.

    What is left of two discs never touches, so one look at all kinds finds them.
    """
    kinds = cv2.LUT(cv2.transform(cv2.LUT(drawn, STEPS), np.array([[16, 4, 1]], np.float32)), KINDS)
    square = np.ones((3, 3), np.uint8)
    inside = (cv2.erode(kinds, square) == kinds) & (cv2.dilate(kinds, square) == kinds) & (kinds > 0)
    count, parts, stats, centres = cv2.connectedComponentsWithStats(inside.astype(np.uint8))
    of_part = np.zeros(count, np.intp)
    of_part[parts[inside]] = kinds[inside]
    return np.column_stack([of_part - 1, centres, stats[:, cv2.CC_STAT_AREA]])[1:]


def _without_hands(discs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where knees appear more than twice as often as any other joint, they are points of hands."""
    counts = np.bincount(discs[:, 0].astype(np.intp), minlength=len(COLOURS))
    hands = counts[HAND] > 2 * np.delete(counts, HAND).max()
    return discs[discs[:, 0] != HAND] if hands else discs


def limb(joints: Joints) -> float:
    """About how long the limbs of a body are, pixels: the median over all that may be limbs; 0 where there are none."""
    lengths = []
    for a, b in BODY:
        starts, ends = (joints.at[joints.kind == kind] for kind in (a, b))
        if len(starts) and len(ends):
            lengths += np.hypot(*(starts[:, None] - ends).transpose(2, 0, 1)).min(1).tolist()
    return float(np.median(lengths)) if lengths else 0.0
