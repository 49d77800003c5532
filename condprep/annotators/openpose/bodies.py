"""Bodies as networks for one person give them: 18 joints each, also those not seen; how alike two are, and what is kept of them.

Bodies are (N, 18, 3) float64: x, y in pixels and a confidence, 0 to 1.
"""

from __future__ import annotations

import numpy as np

# The 18 OpenPose joints among COCO's 17; the neck, here a shoulder, becomes the middle of both.
COCO, NECK, SHOULDERS = (0, 5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3), 1, (5, 6)

# How far people differ about each joint, in units of the body's size: COCO's sigmas (cocodataset.org/#keypoints-eval)
# in OpenPose's order, the neck as a shoulder.
EYES_AND_EARS = (0.025, 0.025, 0.035, 0.035)
SIGMAS = np.array(
    [0.026, 0.079, 0.079, 0.072, 0.062, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089, 0.107, 0.087, 0.089, *EYES_AND_EARS]
)

SUREST = 5  # joints of a person by which somebody is believed to be there
MIN_BELIEF = 0.55  # least mean confidence of these: who is there has 0.61 and more, what is nobody 0.50 and less
SAME_PERSON = 0.3  # similarity above which two bodies are one person


def from_coco(points: np.ndarray) -> np.ndarray:
    """(N, 17 or more, 3), COCO's joints first -> bodies; the neck is as sure as the less sure shoulder."""
    bodies: np.ndarray = points[:, COCO]
    shoulders = points[:, SHOULDERS]
    bodies[:, NECK, :2] = shoulders[..., :2].mean(1)
    bodies[:, NECK, 2] = shoulders[..., 2].min(1)
    return bodies


def visible(bodies: np.ndarray, height: int, width: int, threshold: float) -> np.ndarray:
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


def belief(bodies: np.ndarray) -> np.ndarray:
    """(N,): that there is somebody, the mean confidence of the SUREST joints."""
    mean: np.ndarray = np.sort(bodies[..., 2], 1)[:, -SUREST:].mean(1)
    return mean


def distinct(picture: np.ndarray, bodies: np.ndarray) -> np.ndarray:
    """The believed bodies, and of those that are one person in one picture the surest: their numbers, in order.

    picture: (N,) int64, which picture of the batch each is in.
    """
    left = np.argsort(-bodies[..., 2].mean(1), kind="stable")
    left = left[belief(bodies)[left] >= MIN_BELIEF]
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        same = (picture[left] == picture[best]) & (similarity(bodies[best], bodies[left]) > SAME_PERSON)
        left = left[~same]
    return np.sort(np.array(kept, int))
