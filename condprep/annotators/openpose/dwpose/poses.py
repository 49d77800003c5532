"""The 133 points of COCO-WholeBody as OpenPose's: 18 of the body, 21 of each hand, 70 of the face."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from condprep.annotators.openpose.bodies import from_coco
from condprep.annotators.openpose.keypoints import FACE_POINTS, Points, Pose

MIN_SCORE = 0.3  # of a point that is there

EYES = (14, 15)  # of the joints
FACE, LEFT_HAND, RIGHT_HAND = slice(23, 91), slice(91, 112), slice(112, 133)


def poses(points: NDArray[np.float64], *, hands: bool, faces: bool, threshold: float = MIN_SCORE) -> list[Pose]:
    """(N, 133, 3), x and y in pixels and a score -> the people of whom a point is there: its score is above the threshold."""
    people = [_pose(person, hands, faces, threshold) for person in points if np.isfinite(person).all()]
    return [pose for pose in people if any(part is not None and part.any() for part in pose)]


def _pose(points: NDArray[np.float64], hands: bool, faces: bool, threshold: float) -> Pose:
    body = _there(from_coco(points[None])[0], threshold)
    left, right = (_there(points[part], threshold) if hands else None for part in (LEFT_HAND, RIGHT_HAND))
    return Pose(body, left, right, _face(_there(points[FACE], threshold), body) if faces else None)


def _face(points: Points, body: Points) -> Points:
    """68 points (68, 3), and the eyes as the 69th and 70th where there is a face, (71, 3): the last is never there."""
    face = np.zeros((FACE_POINTS + 1, 3), np.float32)
    face[: len(points)] = points
    if points.any():
        face[len(points) : FACE_POINTS] = body[list(EYES)]
    return face


def _there(points: NDArray[np.float64], threshold: float) -> Points:
    """(N, 3) -> float32, where points of no higher score are 0, 0, 0, and a score is at most 1."""
    kept = np.where(points[:, 2:] > threshold, points, 0)
    kept[:, 2] = kept[:, 2].clip(max=1)
    return kept.astype(np.float32)
