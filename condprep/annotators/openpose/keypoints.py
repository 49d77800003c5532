"""Bodies as OpenPose counts them, and the `keypoints` column that holds them.

A body is a float32 array (18, 3): x, y in pixels of the picture (the centre of the top left pixel is 0, 0) and a
confidence, 0..1, for each of `JOINTS`. A missing joint is 0, 0, 0. Left and right are the person's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Body = NDArray[np.float32]  # (18, 3)

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


def present(body: Body) -> NDArray[np.bool_]:
    """(18, 3) -> (18,): which joints there are."""
    return np.asarray(np.any(body, axis=1))


def column_value(people: Sequence[Body]) -> dict[str, Any]:
    """The bodies (18, 3) of one picture as a value of the `KEYPOINTS` column; nobody gives {"people": []}."""
    empty: dict[str, list[float]] = {part: [] for part in PARTS}
    return {"people": [empty | {"pose_keypoints_2d": body.ravel().tolist()} for body in people]}


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
