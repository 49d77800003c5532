"""People as OpenPose counts their points, and the `keypoints` column that holds them.

Points are a float32 array (N, 3): x, y in pixels of the picture (the centre of the top left pixel is 0, 0) and a
confidence, 0..1. A missing point is 0, 0, 0. A body has the 18 `JOINTS`. Left and right are the person's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Points = NDArray[np.float32]  # (N, 3)
Body = Points  # (18, 3)

HAND_POINTS, FACE_POINTS = 21, 70


class Pose(NamedTuple):
    """One person. None: that part was not looked for; all 0: it was not found."""

    body: Body
    left_hand: Points | None = None  # (21, 3): the wrist, then four points of each finger from the thumb on
    right_hand: Points | None = None
    face: Points | None = None  # (71, 3): OpenPose's 70 points, and one more that is only drawn (see faces.py)


JOINTS = (
    *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
    *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
)

# Pairs of joints in the order in which OpenPose assembles people (COCO model); the last two are never drawn.
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17)),
)

# The lists that OpenPose writes for a person (`--write_json`): x, y, confidence of every point, one after the other;
# empty where the part was not looked for.
PARTS = ("pose_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "face_keypoints_2d")

KEYPOINTS = pa.struct({"people": pa.list_(pa.struct({part: pa.list_(pa.float32()) for part in PARTS}))})


def present(points: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """(N, 3) -> (N,): which points there are."""
    return np.asarray(np.any(points, axis=1))


def believed(people: Sequence[Pose], threshold: float) -> list[Pose]:
    """The same people: points of no higher confidence than the threshold are missing, and so is who has no joint left."""
    found = []
    for pose in people:
        body, *parts = (None if part is None else _believed(part, threshold) for part in pose)
        if body is not None and body.any():
            found.append(Pose(body, *parts))
    return found


def _believed(points: Points, threshold: float) -> Points:
    return np.where(points[:, 2:] > threshold, points, np.float32(0))


def column_value(people: Sequence[Pose]) -> dict[str, Any]:
    """The people of one picture as a value of the `KEYPOINTS` column; nobody gives {"people": []}."""
    return {"people": [{part: _flat(points) for part, points in zip(PARTS, pose)} for pose in people]}


def _flat(points: Points | None) -> list[float]:
    return [] if points is None else list(points[:FACE_POINTS].ravel().tolist())


def bodies(value: Mapping[str, Any]) -> list[Body]:
    """The inverse of `column_value`: a value of the column, or OpenPose's own JSON (COCO model), as bodies (18, 3)."""
    return [np.array(person["pose_keypoints_2d"], np.float32).reshape(len(JOINTS), 3) for person in value["people"]]


def moved(value: Mapping[str, Any], down: int, right: int) -> dict[str, Any]:
    """A value of the column whose picture begins (down, right) pixels inside a larger one; missing points stay 0, 0, 0."""
    people = [{part: _moved(points, down, right) for part, points in person.items()} for person in value["people"]]
    return {**value, "people": people}


def _moved(points: Sequence[float], down: int, right: int) -> list[float]:
    xyc = np.array(points, np.float32).reshape(-1, 3)
    xyc[present(xyc), :2] += right, down
    return list(map(float, xyc.ravel()))
