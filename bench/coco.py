"""COCO's people as OpenPose's bodies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ORDER = [0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]  # OpenPose's joints among COCO's 17 and the neck


def body_of(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(17, 3) x, y, visibility -> (18, 3), missing joints 0, 0, 0; the neck is the middle of two shoulders that are marked."""
    points = np.where(points[:, 2:] > 0, points, 0.0)
    shoulders = points[5:7]
    return np.asarray(np.vstack([points, shoulders.mean(0) * shoulders[:, 2].all()])[ORDER])
