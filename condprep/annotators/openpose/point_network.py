"""The networks of Simon et al., "Hand Keypoint Detection in Single Images using Multiview Bootstrapping": hands, faces.

A VGG trunk and six stages that refine one heatmap a point. Both have the same layers, under the names of the published
checkpoints (`hand_pose_model.pth`, `facenet.pth`); they differ in the number of heatmaps alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condprep.annotators.openpose.keypoints import FACE_POINTS, HAND_POINTS
from condprep.annotators.openpose.layers import STAGES, VGG, Layers, convolutions

HAND_MAPS, FACE_MAPS = HAND_POINTS + 1, FACE_POINTS + 1  # the last one is the background

TRUNK = {
    **VGG,
    **{"conv4_1": 512, "conv4_2": 512, "conv4_3": 512, "conv4_4": 512},
    **{"conv5_1": 512, "conv5_2": 512, "conv5_3_CPM": 128},
}
FEATURES = TRUNK["conv5_3_CPM"]


class PointNetwork(Layers):
    """(B, 3, H, W) float BGR, value / 256 - 0.5, H and W multiples of 8 -> heatmaps (B, maps, H/8, W/8)."""

    def __init__(self, maps: int) -> None:
        super().__init__(TRUNK)
        channels = FEATURES
        for stage in STAGES:
            self.update(_refinement(stage, channels, maps))
            channels = FEATURES + maps

    def forward(self, x: Tensor) -> Tensor:
        x = features = self.features(x)
        for stage in STAGES:
            heatmaps = self.maps(x, _names(stage))
            x = torch.cat([heatmaps, features], 1)
        return heatmaps


def _names(stage: int) -> list[str]:
    return ["conv6_1_CPM", "conv6_2_CPM"] if stage == 1 else [f"Mconv{i}_stage{stage}" for i in range(1, 8)]


def _refinement(stage: int, channels: int, maps: int) -> dict[str, nn.Module]:
    """The layers of a stage: 7 x 7 convolutions (none in the first), the last two 1 x 1."""
    names = _names(stage)
    kernels = [7] * (len(names) - 2) + [1, 1]
    widths = [512 if stage == 1 else FEATURES] * (len(names) - 1) + [maps]
    return convolutions(names, channels, widths, kernels)
