"""The BlazePose detector: where in a picture people are, seen through square views of it.

Constants from MediaPipe's pose_detection graph (modules/pose_detection/pose_detection_cpu.pbtxt).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from condprep.annotators.openpose.blaze.network import Network
from condprep.annotators.openpose.blaze.squares import ArrayRows, Squares, run_in_chunks

SIZE = 224  # pixels, side of the network's input
STRIDES = (8, 16, 32, 32, 32)  # of the network's five layers of anchors, two anchors a cell
ANCHORS = 2254
MIN_SCORE = 0.5
MAX_OVERLAP = 0.3  # intersection over union above which two faces are one
ROI_SCALE = 1.25  # the landmark network sees this many times the circle around the body
HIP, CIRCLE = 2, 3  # rows of `Detections.points`: the mid hip, and a point of the circle around it


@dataclass(frozen=True)
class Detections(ArrayRows):
    """N people, each found in one view. Positions are pixels of the picture."""

    view: np.ndarray  # (N,) int64, number of the square
    score: np.ndarray  # (N,) float64, 0.5 to 1
    points: np.ndarray  # (N, 4, 2) float64: top left and bottom right corner of the face's box, mid hip, circle


class PersonDetector:
    """The network with its decoding. `chunk`: views a forward."""

    def __init__(self, path: Path, device: str, chunk: int) -> None:
        self.network = Network(path, size=SIZE, outputs={0: (ANCHORS, 12), 1: (ANCHORS, 1)}).to(device)
        self.anchors = torch.tensor(anchors(), dtype=torch.float32, device=device)
        self.chunk = chunk

    def __call__(self, rgb: Tensor, views: Squares) -> Detections:
        """All detections in all views (unrotated squares), before any suppression, ordered by view."""
        chunks = run_in_chunks(self._find, rgb, views, SIZE, self.chunk, replicate=False)
        score = torch.cat([scores for _, scores in chunks])  # (N, 2254)
        points = torch.cat([points for points, _ in chunks])
        view, anchor = torch.where(score >= MIN_SCORE)
        number = view.cpu().numpy()
        placed = views[number].place(points[view, anchor].double().cpu().numpy())
        found = Detections(number, score[view, anchor].double().cpu().numpy(), placed)
        return found[np.isfinite(placed).all((1, 2))]  # a user's own weights can give anything

    def _find(self, seen: Tensor) -> list[Tensor]:
        """(n, 3, 224, 224), 0..255 -> points (n, 2254, 4, 2) in units of the view, scores (n, 2254)."""
        values, logits = self.network(seen / 127.5 - 1)
        box_centre, box_size, hip, circle = values[..., :8].reshape(*values.shape[:2], 4, 2).unbind(-2)
        corners = (box_centre - box_size / 2, box_centre + box_size / 2)
        points = torch.stack([*corners, hip, circle], -2) / SIZE + self.anchors[:, None]
        return [points, logits[..., 0].sigmoid()]


def anchors() -> np.ndarray:
    """The anchors' centres, (2254, 2) as x, y in units of the view, in the order of the network's outputs."""
    layers = [(stride, STRIDES.count(stride)) for stride in dict.fromkeys(STRIDES)]
    return np.concatenate([_cells(SIZE // stride).repeat(2 * count, axis=0) for stride, count in layers])


def _cells(n: int) -> np.ndarray:
    y, x = np.mgrid[:n, :n]
    return (np.stack([x, y], -1).reshape(-1, 2) + 0.5) / n


def suppress(found: Detections) -> Detections:
    """Weighted non-maximum suppression: overlapping faces become one, at the mean of their points by score."""
    left = found[np.argsort(-found.score, kind="stable")]
    kept = [left[:0]]
    while len(left):
        same = overlap(left.points[0], left.points) > MAX_OVERLAP
        same[0] = True  # also a box without area
        group = left[same]
        mean = np.average(group.points, axis=0, weights=group.score)
        kept.append(Detections(group.view[:1], group.score[:1], mean[None]))
        left = left[~same]
    return Detections.join(kept)


def overlap(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with N boxes; points (K, 2) and (N, K, 2), whose first two are the corners."""
    low, high = np.maximum(one[0], many[:, 0]), np.minimum(one[1], many[:, 1])
    common = (high - low).clip(0).prod(-1)
    union = (one[1] - one[0]).clip(0).prod() + (many[:, 1] - many[:, 0]).clip(0).prod(-1) - common
    shared: np.ndarray = common / np.maximum(union, 1e-9)
    return shared


def regions(picture: np.ndarray, hip: np.ndarray, circle: np.ndarray) -> Squares:
    """Where the landmark network looks for N people: squares around the hips, upright for the person.

    picture: (N,) int64; hip, circle: (N, 2) pixels, the mid hip and the point above it on the circle around the body.
    """
    x, y = (circle - hip).T
    angle = np.pi / 2 - np.arctan2(-y, x)  # 0 where the point is straight above the hip
    return Squares(picture, hip, 2 * ROI_SCALE * np.hypot(x, y), angle)
