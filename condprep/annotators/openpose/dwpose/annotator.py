"""openpose:dwpose: two networks, one that finds people and one that finds the points of each, drawn as OpenPose's people.

Both are Apache-2.0. What is done before and after them is that of comfyui_controlnet_aux, which hands both RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from condprep.annotators.openpose.dwpose.detector import PeopleDetector
from condprep.annotators.openpose.dwpose.landmarks import Landmarker
from condprep.annotators.openpose.dwpose.poses import MIN_SCORE, poses
from condprep.annotators.openpose.keypoints import Pose
from condprep.annotators.openpose.people_annotator import PeopleAnnotator
from condprep.annotators.precision import DTYPES, Precision

if TYPE_CHECKING:
    from condprep.weights.find import WeightFile

VARIANTS = {"dwpose": "", "dwpose-hand": "hands", "dwpose-face": "faces", "dwpose-full": "hands and faces"}
CHUNK_ON_GPU = 32  # pictures, and people, a forward; on a CPU one, so that a result is the same whatever else there is


class Dwpose(PeopleAnnotator):
    """Finds and draws people."""

    def __init__(
        self,
        detector: WeightFile,
        landmarks: WeightFile,
        *,
        variant: str,
        device: str,
        precision: Precision,
        threshold: float | None = None,
    ) -> None:
        """variant: of VARIANTS, what is drawn beside bodies. precision: fp32, bf16 or fp16. threshold: of a point's score (default: 0.3).

        Raises WeightsError where a file is damaged or another network.
        """
        on_cpu = torch.device(device).type == "cpu"
        self.variant, self.device = variant, device
        self._threshold = MIN_SCORE if threshold is None else threshold
        self.batch_size = 4 if on_cpu else 32
        self.provenance: Mapping[str, Any] = {
            "parameters": {"precision": precision} | ({} if threshold is None else {"threshold": threshold}),
            "weights": {file.name: file.sha256 for file in (detector, landmarks)},
            "licence": "Apache-2.0",
            "commercial": True,
        }
        chunk, dtype = 1 if on_cpu else CHUNK_ON_GPU, DTYPES[precision]
        self._detector = PeopleDetector(detector.path, device, chunk=chunk, dtype=dtype)
        self._landmarker = Landmarker(landmarks.path, device, chunk=chunk, dtype=dtype)

    @torch.inference_mode()
    def find(self, rgb: Tensor) -> list[list[Pose]]:
        """(B, 3, H, W) uint8 RGB -> the people in each picture, in its pixels, the surest first."""
        pictures = list(rgb.permute(0, 2, 3, 1).cpu().contiguous().numpy())  # resized and cut out by OpenCV, to the bit
        found = self._landmarker(pictures, self._detector(pictures))
        parts = VARIANTS[self.variant]
        hands, faces = "hands" in parts, "faces" in parts
        return [poses(points, hands=hands, faces=faces, threshold=self._threshold) for points in found]
