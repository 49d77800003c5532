"""The annotator around its networks: pictures -> drawn people and their keypoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from condprep.annotators.openpose.decode import decode_poses
from condprep.annotators.openpose.faces import Faces
from condprep.annotators.openpose.hands import Hands
from condprep.annotators.openpose.inputs import network_input
from condprep.annotators.openpose.keypoints import Body, Pose, believed
from condprep.annotators.openpose.network import STRIDE
from condprep.annotators.openpose.operators import Frame
from condprep.annotators.openpose.parts import complete
from condprep.annotators.openpose.people_annotator import PeopleAnnotator
from condprep.annotators.precision import DTYPES, Precision, resolve_precision

HEIGHT = 184  # of the network's input: half of the 368 that it was trained at, as controlnet_aux runs it
PIXELS = 32 * 184 * 280  # of the network's input in one forward: bounds the memory for pictures of any shape,
PIXELS_ON_GPU = 2**23  # and for any number of hands and faces


class Openpose(PeopleAnnotator):
    """Finds and draws people with a network that gives OpenPose's heatmaps and PAFs."""

    def __init__(
        self,
        network: nn.Module,
        *,
        hand: nn.Module | None = None,
        face: nn.Module | None = None,
        device: str,
        precision: Precision = "fp32",
        height: int = HEIGHT,
        threshold: float | None = None,
        variant: str = "cmu",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """The network takes (B, 3, 8 h, 8 w) BGR, value / 256 - 0.5, and returns heatmaps (B, 19, h, w), PAFs (B, 38, h, w).

        hand and face take the same, and return heatmaps (B, 22, h, w) and (B, 71, h, w); without them hands and faces
        are not looked for. All are moved to the device and the precision ("auto" is resolved by `resolve_precision`). height: that
        of the body network's input, pixels. threshold: joints and points that are not believed more than that are missing.
        """
        self.variant = variant
        self.device = device
        self.batch_size = 4 if device == "cpu" else 32
        self.provenance = provenance or {}
        self._dtype, self._height = DTYPES[resolve_precision(precision, device, "openpose")], height
        self._threshold = threshold
        self._network = self._ready(network)
        pixels = PIXELS if device == "cpu" else PIXELS_ON_GPU
        self._hands = Hands(self._ready(hand), self._dtype, pixels) if hand is not None else None
        self._faces = Faces(self._ready(face), self._dtype, pixels) if face is not None else None

    def _ready(self, network: nn.Module) -> nn.Module:
        return network.eval().to(self.device, self._dtype).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def find(self, rgb: Tensor) -> list[list[Pose]]:
        """(B, 3, H, W) uint8 RGB -> the people in each picture, in its pixels."""
        height, width = rgb.shape[2:]
        frame = Frame.of(height, width, self._height)
        together = max(1, PIXELS // (frame.cells[0] * frame.cells[1] * STRIDE**2))
        found = [bodies for part in torch.split(rgb, together) for bodies in self._detect(part, frame)]
        people = complete(rgb, found, self._hands, self._faces)
        return people if self._threshold is None else [believed(poses, self._threshold) for poses in people]

    def _detect(self, rgb: Tensor, frame: Frame) -> list[list[Body]]:
        heatmaps, pafs = self._network(network_input(rgb, frame).to(self._dtype))
        return decode_poses(heatmaps, pafs, frame)
