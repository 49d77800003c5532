"""The annotator around a body network: pictures -> drawn bodies and their keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from condprep.annotators.openpose.decode import decode
from condprep.annotators.openpose.draw import draw_bodies
from condprep.annotators.openpose.inputs import network_input
from condprep.annotators.openpose.keypoints import KEYPOINTS, Body, column_value
from condprep.annotators.openpose.network import STRIDE
from condprep.annotators.openpose.operators import Frame
from condprep.types import Maps

HEIGHT = 184  # of the network's input: half of the 368 that it was trained at, as controlnet_aux runs it
PIXELS = 32 * 184 * 280  # of the network's input in one forward; bounds its memory whatever the pictures' shape


class Openpose:
    """Finds and draws people with a network that gives OpenPose's heatmaps and PAFs.

    The network takes (B, 3, h, w) BGR, value / 256 - 0.5, h and w multiples of 8, in its own dtype, and returns heatmaps
    (B, 19, h/8, w/8) and PAFs (B, 38, h/8, w/8); `height` is the height at which it sees a picture.
    """

    binary = False
    columns = {"keypoints": KEYPOINTS}

    def __init__(
        self,
        network: nn.Module,
        *,
        device: str,
        dtype: torch.dtype = torch.float32,
        height: int = HEIGHT,
        variant: str = "cmu",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = "openpose"
        self.variant = variant
        self.device = device
        self.batch_size = 4 if device == "cpu" else 32
        self.provenance = provenance or {}
        self._dtype, self._height = dtype, height
        self._network = network.to(device, dtype).to(memory_format=torch.channels_last).eval()

    def __call__(self, rgb: Tensor, keys: Sequence[str] = ()) -> Maps:
        """(B, 3, H, W) uint8 RGB -> drawn bodies (B, 3, H, W) uint8 RGB on the host, and the `keypoints` column."""
        people = self.detect(rgb)
        drawn = np.stack([draw_bodies(bodies, *rgb.shape[2:]) for bodies in people])
        return Maps(torch.from_numpy(drawn).permute(0, 3, 1, 2), {"keypoints": [column_value(b) for b in people]})

    @torch.inference_mode()
    def detect(self, rgb: Tensor) -> list[list[Body]]:
        """(B, 3, H, W) uint8 RGB -> the bodies (18, 3) in each picture, in its pixels."""
        frame = Frame.of(*rgb.shape[2:], network_height=self._height)
        together = max(1, PIXELS // (frame.cells[0] * frame.cells[1] * STRIDE**2))
        return [bodies for part in rgb.split(together) for bodies in self._detect(part, frame)]

    def _detect(self, rgb: Tensor, frame: Frame) -> list[list[Body]]:
        heatmaps, pafs = self._network(network_input(rgb, frame).to(self._dtype))
        return decode(heatmaps, pafs, frame)
