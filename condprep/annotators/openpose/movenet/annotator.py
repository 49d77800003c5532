"""openpose:movenet: people found by MoveNet MultiPose, each looked at by MoveNet Thunder, drawn as OpenPose's bodies.

Both networks are Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from condprep.annotators.openpose.blaze.poses import similarity, visible
from condprep.annotators.openpose.blaze.squares import Squares
from condprep.annotators.openpose.keypoints import Pose
from condprep.annotators.openpose.movenet import detector, landmarks
from condprep.annotators.openpose.movenet.detector import Boxes, PersonDetector
from condprep.annotators.openpose.movenet.landmarks import Landmarker
from condprep.annotators.openpose.movenet.network import load as load_network
from condprep.annotators.openpose.people_annotator import PeopleAnnotator

if TYPE_CHECKING:
    from condprep.weights.find import WeightFile

MARGIN = 1.25  # the landmark network sees a square of so many times the box's longer side
WHOLE = 1.25  # and, of every picture, at one of so many times its longer side: the finder misses people who fill it
MIN_SIDE = 8.0  # pixels, of that square
SAME_PERSON = 0.3  # similarity above which two poses are one person
MIN_SUREST, SUREST = 0.45, 5  # least mean confidence of so many of a person's joints, the surest
MIN_CONFIDENCE = 0.2  # of a joint that is there, where the user does not say another
# The 18 OpenPose joints among COCO's 17; the neck, here a shoulder, becomes the middle of both.
ORDER, NECK, SHOULDERS = (0, 5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3), 1, (5, 6)


class Movenet(PeopleAnnotator):
    """Finds and draws people. A result is the same bits whatever else is in the batch."""

    variant = "movenet"

    def __init__(self, files: Sequence[WeightFile], *, device: str, threshold: float | None = None) -> None:
        """files: those of MultiPose, then those of Thunder, the list before the numbers. threshold: of a joint's confidence (default: 0.2).

        Raises WeightsError where a file is damaged or another network's.
        """
        on_cpu = torch.device(device).type == "cpu"
        self.device = device
        self._threshold = MIN_CONFIDENCE if threshold is None else threshold
        self.batch_size = 4 if on_cpu else 32
        self.provenance: Mapping[str, Any] = {
            "parameters": {} if threshold is None else {"threshold": threshold},
            "weights": {file.name: file.sha256 for file in files},
            "licence": "Apache-2.0",
            "commercial": True,
        }
        finder = load_network(*files[:2], width=detector.WIDTH, heads=detector.HEADS)
        looker = load_network(*files[2:], width=landmarks.WIDTH, heads=landmarks.HEADS)
        self._detector = PersonDetector(finder.to(device), chunk=1 if on_cpu else 16)
        self._landmarker = Landmarker(looker.to(device), chunk=2 if on_cpu else 32)

    @torch.inference_mode()
    def find(self, rgb: Tensor) -> list[list[Pose]]:
        """(B, 3, H, W) uint8 RGB -> the people in each picture: joints above the threshold that are inside it."""
        looked = Squares.join([regions(self._detector(rgb)), wholes(len(rgb), *rgb.shape[2:])])
        found = bodies(self._landmarker(rgb, looked))
        kept = distinct(looked.picture, found)
        drawn = visible(found[kept], rgb.shape[2], rgb.shape[3], self._threshold)
        return [[Pose(body) for body in drawn[looked.picture[kept] == i] if body.any()] for i in range(len(rgb))]


def regions(boxes: Boxes) -> Squares:
    """Where the landmark network looks for each."""
    centre = boxes.corners.mean(1)
    side = np.maximum(MARGIN * (boxes.corners[:, 1] - boxes.corners[:, 0]).max(1, initial=0), MIN_SIDE)
    return Squares(boxes.picture, centre, side, np.zeros(len(side)))


def wholes(pictures: int, height: int, width: int) -> Squares:
    """A square around each whole picture."""
    middle = np.full((pictures, 2), ((width - 1) / 2, (height - 1) / 2))
    side = np.full(pictures, max(WHOLE * max(height, width), MIN_SIDE))
    return Squares(np.arange(pictures), middle, side, np.zeros(pictures))


def bodies(points: np.ndarray) -> np.ndarray:
    """COCO's joints (N, 17, 3) -> OpenPose's (N, 18, 3), all of them, also those not seen."""
    taken: np.ndarray = points[:, ORDER]
    shoulders = points[:, SHOULDERS]
    taken[:, NECK, :2] = shoulders[..., :2].mean(1)
    taken[:, NECK, 2] = shoulders[..., 2].min(1)
    return taken


def distinct(picture: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The believed of bodies (N, 18, 3), and of those that are one person in one picture the surest: numbers in the order given."""
    believed = np.sort(found[..., 2], 1)[:, -SUREST:].mean(1) >= MIN_SUREST
    left = np.argsort(-found[..., 2].mean(1), kind="stable")
    left = left[believed[left]]
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        same = (picture[left] == picture[best]) & (similarity(found[best], found[left]) > SAME_PERSON)
        left = left[~same]
    return np.sort(np.array(kept, int))
