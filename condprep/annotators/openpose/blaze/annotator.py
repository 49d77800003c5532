"""openpose:blaze: people found by BlazePose's detector and landmark networks, drawn as OpenPose's bodies.

Both models are Apache-2.0. The networks see one person at a time; tiles, a second look and the comparison of poses make
of them a finder of several people.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from condprep.annotators.openpose.blaze.detector import PersonDetector, regions
from condprep.annotators.openpose.blaze.landmarks import Landmarker, Poses
from condprep.annotators.openpose.blaze.poses import (
    MIN_CONFIDENCE,
    MIN_FLAG,
    agree,
    joints,
    next_regions,
    suppress,
    visible,
)
from condprep.annotators.openpose.blaze.tiles import candidates, views
from condprep.annotators.openpose.keypoints import Body, Pose
from condprep.annotators.openpose.people_annotator import PeopleAnnotator

if TYPE_CHECKING:
    from condprep.weights.find import WeightFile, Weights

WEIGHTS = ("pose_detection.tflite", "pose_landmark_full.tflite")


class Blaze(PeopleAnnotator):
    """Finds and draws people. A result is the same bits whatever else is in the batch."""

    variant = "blaze"

    def __init__(
        self, detector: WeightFile, landmarks: WeightFile, *, device: str, tiles: int, threshold: float | None = None
    ) -> None:
        """tiles: how many sizes of tiles are looked at, 0 (finds one or two people, fast) to 3 (small ones too, slow).
        threshold: of a joint's confidence (default: 0.3).

        Raises WeightsError where a file is damaged or another model.
        """
        on_cpu = torch.device(device).type == "cpu"
        self.device, self.tiles = device, tiles
        self._threshold = MIN_CONFIDENCE if threshold is None else threshold
        self.batch_size = 4 if on_cpu else 32
        self.provenance: Mapping[str, Any] = {
            "parameters": {"tiles": tiles} | ({} if threshold is None else {"threshold": threshold}),
            "weights": {file.name: file.sha256 for file in (detector, landmarks)},
            "licence": "Apache-2.0",
            "commercial": True,
        }
        self._detector = PersonDetector(detector.path, device, chunk=8 if on_cpu else 64)
        self._landmarker = Landmarker(landmarks.path, device, chunk=4 if on_cpu else 32)

    def find(self, rgb: Tensor) -> list[list[Pose]]:
        """(B, 3, H, W) uint8 RGB -> the people in each picture: joints above the threshold that are inside it."""
        return [[Pose(body) for body in bodies] for bodies in self.detect(rgb)]

    @torch.inference_mode()
    def detect(self, rgb: Tensor) -> list[list[Body]]:
        """(B, 3, H, W) uint8 RGB -> the bodies (18, 3) in each picture, in its pixels."""
        poses = self._find(rgb)
        height, width = rgb.shape[2:]
        bodies = visible(joints(poses), height, width, self._threshold)
        return [[body for body in bodies[poses.picture == i] if body.any()] for i in range(len(rgb))]

    @torch.inference_mode()
    def look(self, rgb: Tensor, hips: np.ndarray, circles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How people stand whose places in one picture are known: the bodies (N, 18, 3), all joints, also those not seen.

        And the belief (N,), 0 to 1, that somebody is there: asked about an empty place, the network draws somebody all
        the same. rgb: (1, 3, H, W) uint8 RGB. hips, circles: (N, 2) pixels, the middle of the hips, and the point above
        it on the circle around the whole body.
        """
        rgb = rgb.to(self.device)
        first = self._landmarker(rgb, regions(np.zeros(len(hips), np.int64), hips, circles))
        return joints(self._landmarker(rgb, next_regions(first))), first.flag

    def _find(self, rgb: Tensor) -> Poses:
        """The people in all pictures: found in the views, looked at, told apart, looked at again."""
        looked = views(len(rgb), rgb.shape[2], rgb.shape[3], scales=self.tiles)
        first = self._landmarker(rgb, candidates(self._detector(rgb, looked), looked))
        first = suppress(first[first.flag >= MIN_FLAG])
        second = self._landmarker(rgb, next_regions(first))
        return second[agree(first, second)]


def load(params: Any, *, device: str, weights: Weights) -> Blaze:
    """openpose:blaze. params: OpenposeParams. Raises WeightsError where the models are missing or damaged."""
    return Blaze(
        *(weights.get(name) for name in WEIGHTS), device=device, tiles=params.tiles, threshold=params.threshold
    )
