"""Which poses are people of their own, and their 18 OpenPose joints."""

from __future__ import annotations

import numpy as np

from condprep.annotators.openpose.blaze.detector import regions
from condprep.annotators.openpose.blaze.landmarks import Poses
from condprep.annotators.openpose.blaze.squares import Squares

HIP, CIRCLE = 33, 34  # landmarks that say where the person is, as two points of the detector do
MIN_FLAG = 0.5  # of a first look
MIN_SECOND_FLAG = 0.7
SAME_PERSON = 0.3  # similarity above which two poses are one person
AGREEMENT = 0.45  # similarity of the first and the second look, below which neither is believed
MIN_CONFIDENCE = 0.3  # of a joint that is there, where the user does not say another

# The 18 OpenPose joints as landmarks; the neck, here a shoulder, becomes the middle of both.
JOINTS = (0, 12, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
NECK, SHOULDERS = 1, (11, 12)

# How far people differ about each joint, in units of the body's size: COCO's sigmas (cocodataset.org/#keypoints-eval)
# in the order above, the neck as a shoulder.
EYES_AND_EARS = (0.025, 0.025, 0.035, 0.035)
SIGMAS = np.array(
    [0.026, 0.079, 0.079, 0.072, 0.062, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089, 0.107, 0.087, 0.089, *EYES_AND_EARS]
)


def joints(poses: Poses) -> np.ndarray:
    """(N, 18, 3) float64: x, y in pixels and confidence of the OpenPose joints, all of them, also those not seen."""
    landmarks = np.concatenate([poses.points, poses.confidence[..., None]], -1)
    taken = landmarks[:, JOINTS]
    left, right = (landmarks[:, shoulder] for shoulder in SHOULDERS)
    taken[:, NECK, :2] = (left + right)[:, :2] / 2
    taken[:, NECK, 2] = np.minimum(left[:, 2], right[:, 2])
    return taken


def visible(bodies: np.ndarray, height: int, width: int, threshold: float = MIN_CONFIDENCE) -> np.ndarray:
    """(N, 18, 3) -> float32, where joints of no higher confidence, or outside the picture, are 0, 0, 0."""
    x, y, confidence = np.moveaxis(bodies, -1, 0)
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    return np.where((inside & (confidence > threshold))[..., None], bodies, 0).astype(np.float32)


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """COCO's object keypoint similarity of bodies (..., 18, 3), 0 to 1; the size is that of the box around `one`."""
    low, high = one[..., :2].min(-2), one[..., :2].max(-2)
    area = (high - low).prod(-1, keepdims=True)
    distance = ((one - other)[..., :2] ** 2).sum(-1)
    mean: np.ndarray = np.exp(-distance / (2 * (2 * SIGMAS) ** 2 * np.maximum(area, 1))).mean(-1)
    return mean


def next_regions(poses: Poses) -> Squares:
    """Where a second look at each person belongs, as the first one saw it."""
    return regions(poses.picture, poses.points[:, HIP], poses.points[:, CIRCLE])


def suppress(poses: Poses) -> Poses:
    """Of poses that are one person in one picture the best, in the order given."""
    bodies = joints(poses)
    left = np.argsort(-poses.flag * bodies[..., 2].mean(1), kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        same = (poses.picture[left] == poses.picture[best]) & (similarity(bodies[best], bodies[left]) > SAME_PERSON)
        left = left[~same]
    return poses[np.sort(np.array(kept, int))]


def agree(first: Poses, second: Poses) -> np.ndarray:
    """(N,) bool: of which people two looks tell the same."""
    alike = similarity(joints(second), joints(first)) >= AGREEMENT
    believed: np.ndarray = alike & (second.flag >= MIN_SECOND_FLAG)
    return believed
