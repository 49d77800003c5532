"""The body network of Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields" (COCO model).

A VGG trunk and six stages of two branches: L1 the part affinity fields (PAFs), L2 the heatmaps. Layers have the names
of the published checkpoint (`body_pose_model.pth`), so that its keys are those of our state dict.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condprep.annotators.openpose.layers import STAGES, VGG, Layers, convolutions
from condprep.weights.find import WeightFile, load_state_dict, network_with

STRIDE = 8  # pixels of the network's input a cell of its output
HEATMAPS, PAFS = 19, 38  # 18 joints and the background; x and y of 19 limbs

TRUNK = {**VGG, "conv4_1": 512, "conv4_2": 512, "conv4_3_CPM": 256, "conv4_4_CPM": 128}
FEATURES = TRUNK["conv4_4_CPM"]
BRANCHES = {"L1": PAFS, "L2": HEATMAPS}


class BodyNetwork(Layers):
    """(B, 3, H, W) float BGR, value / 256 - 0.5, H and W multiples of 8 -> heatmaps (B, 19, H/8, W/8) and PAFs (B, 38, ..)."""

    def __init__(self) -> None:
        super().__init__(TRUNK)
        channels = FEATURES
        for stage in STAGES:
            for branch in BRANCHES:
                self.update(_branch(stage, branch, channels))
            channels = FEATURES + PAFS + HEATMAPS

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = features = self.features(x)
        for stage in STAGES:
            pafs, heatmaps = (self.maps(x, _names(stage, branch)) for branch in BRANCHES)
            x = torch.cat([pafs, heatmaps, features], 1)
        # The published network rectifies its last heatmaps, unlike those of the earlier stages.
        return F.relu(heatmaps), pafs


def _names(stage: int, branch: str) -> list[str]:
    if stage == 1:
        return [f"conv5_{i}_CPM_{branch}" for i in range(1, 6)]
    return [f"Mconv{i}_stage{stage}_{branch}" for i in range(1, 8)]


def _branch(stage: int, branch: str, channels: int) -> dict[str, nn.Module]:
    """The layers of one branch of a stage: 3 x 3 (first stage) or 7 x 7 convolutions, the last two of them 1 x 1."""
    names = _names(stage, branch)
    kernels = [3 if stage == 1 else 7] * (len(names) - 2) + [1, 1]
    widths = [128] * (len(names) - 2) + [512 if stage == 1 else 128, BRANCHES[branch]]
    return convolutions(names, channels, widths, kernels)


def load_network(file: WeightFile, make: Callable[[], nn.Module] = BodyNetwork) -> nn.Module:
    """A network with a file's weights, float32 on the CPU. Raises WeightsError if they are damaged or another model's."""
    return network_with(make, load_state_dict(file), file)
