"""openpose:blaze: people found by MoveNet MultiPose, each looked at by MoveNet Thunder, drawn as OpenPose's bodies.

Both networks are Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from condprep.annotators.openpose.blaze import detector, landmarks
from condprep.annotators.openpose.blaze.detector import Boxes, PersonDetector
from condprep.annotators.openpose.blaze.landmarks import Landmarker
from condprep.annotators.openpose.blaze.network import load as load_network
from condprep.annotators.openpose.bodies import belief, distinct, from_coco, visible
from condprep.annotators.openpose.keypoints import Pose
from condprep.annotators.openpose.people_annotator import PeopleAnnotator
from condprep.annotators.openpose.squares import Squares

if TYPE_CHECKING:
    from condprep.weights.find import WeightFile

# The landmark network sees a square of so many times ...
MARGIN = 1.25  # ... the longer side of a person's box,
WHOLE = 1.25  # ... of every picture's longer side, once, since the finder misses people who fill it,
AROUND = 2.25  # ... the radius of the circle around somebody whose place is known.
MIN_SIDE = 8.0  # pixels, of that square
MIN_CONFIDENCE = 0.25  # of a joint that is there, where the user does not say another


class Blaze(PeopleAnnotator):
    """Finds and draws people. A result is the same bits whatever else is in the batch."""

    variant = "blaze"

    def __init__(self, files: Sequence[WeightFile], *, device: str, threshold: float | None = None) -> None:
        """files: those of MultiPose, then those of Thunder, the list before the numbers. threshold: of a joint's confidence (default: 0.25).

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
        found = from_coco(self._landmarker(rgb, looked))
        kept = distinct(looked.picture, found)
        drawn = visible(found[kept], rgb.shape[2], rgb.shape[3], self._threshold)
        return [[Pose(body) for body in drawn[looked.picture[kept] == i] if body.any()] for i in range(len(rgb))]

    @torch.inference_mode()
    def look(self, rgb: Tensor, hips: np.ndarray, circles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How people stand whose places in one picture are known: the bodies (N, 18, 3), all joints, also those not seen.

        And the belief (N,), 0 to 1, that somebody is there: asked about an empty place, the network draws somebody all
        the same. rgb: (1, 3, H, W) uint8 RGB. hips, circles: (N, 2) pixels, the middle of the hips, and the point above
        it on the circle around the whole body.
        """
        found = from_coco(self._landmarker(rgb.to(self.device), upright(hips, circles)))
        return found, belief(found)


def regions(boxes: Boxes) -> Squares:
    """Where the landmark network looks for each."""
    centre = boxes.corners.mean(1)
    side = MARGIN * (boxes.corners[:, 1] - boxes.corners[:, 0]).max(1, initial=0)
    return Squares(boxes.picture, centre, side.clip(MIN_SIDE), np.zeros(len(side)))


def wholes(pictures: int, height: int, width: int) -> Squares:
    """A square around each whole picture."""
    middle = np.full((pictures, 2), ((width - 1) / 2, (height - 1) / 2))
    side = np.full(pictures, max(WHOLE * max(height, width), MIN_SIDE))
    return Squares(np.arange(pictures), middle, side, np.zeros(pictures))


def upright(hips: np.ndarray, circles: np.ndarray) -> Squares:
    """Squares in one picture around known people, (N, 2) pixels each, turned so that the circle's point is above the hips."""
    x, y = (circles - hips).T
    side = (AROUND * np.hypot(x, y)).clip(MIN_SIDE)
    return Squares(np.zeros(len(hips), np.int64), hips, side, np.arctan2(x, -y))
