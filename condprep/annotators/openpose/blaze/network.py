"""MoveNet: a MobileNetV2, a pyramid down to a quarter of the picture's resolution, and a map for each thing it tells.

A CenterNet: whatever is told of a person stands at the cell of its middle. Of Google's MoveNet (Apache-2.0), whose batch
normalization the published files have folded into the convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from condprep.annotators.openpose.blaze.weights_file import read_weights
from condprep.weights.find import WeightFile, load_into

JOINTS = 17  # COCO's
STRIDE = 4  # pixels a cell of the maps
GRID = 32  # sides of pictures are multiples of it
# name -> channels: belief in a person's middle; in each joint; from the middle to each joint; from a joint's cell to
# the joint; the person's height and width; from the cell to the middle. Cells, y before x.
HEADS = {
    "center": 1,
    "kpt_heatmap": JOINTS,
    "kpt_regress": 2 * JOINTS,
    "kpt_offset": 2 * JOINTS,
    "box_scale": 2,
    "box_offset": 2,
}
BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # how many have the same number of channels
CHANNELS = (16, 24, 32, 64, 96, 160, 320)  # of these, at width 1
SHRINKS = (1, 3, 6, 13)  # blocks that halve the resolution
TAPS = (9, 5, 2)  # blocks whose output the pyramid takes, from coarse to fine
PYRAMID = (64, 32, 24, 24)


class MoveNet(nn.Module):
    """width: times the channels of a MobileNetV2; heads: of HEADS."""

    def __init__(self, width: float, heads: Sequence[str]) -> None:
        super().__init__()
        channels = [_whole(width * c) for c, n in zip(CHANNELS, BLOCKS, strict=True) for _ in range(n)]
        first = _whole(width * 32)
        self.first = _Convolution(3, first, 3, stride=2, limit=6)
        before = [first, *channels[:-1]]
        self.blocks = nn.ModuleList(
            _Block(a, b, expand=i > 0, stride=2 if i in SHRINKS else 1)
            for i, (a, b) in enumerate(zip(before, channels))
        )
        self.last = _Convolution(channels[-1], 1280, 1, limit=6)
        taken = [1280, *(channels[i] for i in TAPS)]
        self.sides = nn.ModuleList(_Convolution(a, b, 1) for a, b in zip(taken, (64, *PYRAMID[:3]), strict=True))
        self.levels = nn.ModuleList(_Separable(a, b) for a, b in pairwise(PYRAMID))
        self.heads = nn.ModuleDict({name: _Head(PYRAMID[-1], HEADS[name]) for name in heads})

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) float32, 0..255, sides multiples of 32 -> each head's map (N, C, H / 4, W / 4)."""
        x = self.first((rgb / 127.5 - 1).contiguous(memory_format=torch.channels_last))
        taps = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in TAPS:
                taps[i] = x
        coarsest, *sides = self.sides
        x = coarsest(self.last(x))
        for tap, side, level in zip(TAPS, sides, self.levels, strict=True):
            x = level(F.interpolate(x, scale_factor=2, mode="bilinear") + side(taps[tap]))
        return {name: head(x) for name, head in self.heads.items()}


class _Convolution(nn.Conv2d):
    """A convolution and its activation. limit: 0 none, 6 ReLU6, infinity ReLU. Padded as TensorFlow's SAME on even sides."""

    def __init__(
        self,
        before: int,
        after: int,
        size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        limit: float = 0,
    ) -> None:
        self.limit, self.odd = limit, stride > 1
        super().__init__(before, after, size, stride, 0 if self.odd else size // 2, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(F.pad(x, (0, 1, 0, 1)) if self.odd else x)
        return x.clamp_(0, self.limit) if self.limit else x


class _Block(nn.Module):
    """MobileNetV2's: wider, a convolution of each channel alone, narrower; added to what came in where both have one shape."""

    def __init__(self, before: int, after: int, *, expand: bool, stride: int) -> None:
        super().__init__()
        inner = 6 * before if expand else before
        self.expand = _Convolution(before, inner, 1, limit=6) if expand else nn.Identity()
        self.depthwise = _Convolution(inner, inner, 3, stride=stride, groups=inner, limit=6)
        self.project = _Convolution(inner, after, 1)
        self.added = expand and stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.added else y


class _Separable(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.depthwise = _Convolution(before, before, 3, groups=before, bias=False)
        self.pointwise = _Convolution(before, after, 1, limit=float("inf"))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


class _Head(_Separable):
    def __init__(self, before: int, channels: int) -> None:
        super().__init__(before, 96)
        self.out = _Convolution(96, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(super().forward(x))
        return y


def _whole(channels: float) -> int:
    """The nearest multiple of 8, which is 8 at least, as MobileNetV2 counts."""
    return max(8, int(channels + 4) // 8 * 8)


def load(listed: WeightFile, stored: WeightFile, *, width: float, heads: Sequence[str]) -> MoveNet:
    """The network of two files, on the CPU. Raises WeightsError where they are damaged or another network's."""
    with torch.device("meta"):
        network = MoveNet(width, heads)
    network.to_empty(device="cpu")
    load_into(network, _state(read_weights(listed.path, stored.path), heads), stored)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


# Names in the file -> ours. The others are numbers that the file's own decoding needs.
LEVEL = r"separable_conv2d(?:_(\d))?/"
HEAD = rf"({'|'.join(HEADS)})_0/"
NAMES = (
    (r"model/Conv1/Conv2D_", "first."),
    (r"model/Conv_1/Conv2D_", "last."),
    (r"model/expanded_conv_(\w+)/\w+?_", r"blocks.0.\1."),
    (r"model/block_(\d+)_(\w+)/\w+?_", r"blocks.\1.\2."),
    (r"conv2d(?:_(\d))?/(?:Conv2D|BiasAdd)/", r"sides.\1."),
    (LEVEL + r"separable_conv2d/", r"levels.\1.depthwise."),
    (LEVEL + r"separable_conv2d_", r"levels.\1.pointwise."),
    (HEAD + r"separable_conv2d_\d/separable_conv2d/ReadVariableOp$", r"heads.\1.depthwise.weight"),
    (HEAD + r"separable_conv2d_\d/separable_conv2d/ReadVariableOp_1$", r"heads.\1.pointwise.weight"),
    (HEAD + r"separable_conv2d_\d/BiasAdd/", r"heads.\1.pointwise."),
    (HEAD + r"conv2d_\d/(?:Conv2D|BiasAdd)/", r"heads.\1.out."),
)
PREFIX = re.compile(r"^StatefulPartitionedCall/(center_net_mobile_net_v2fpn_feature_extractor/model_1/)?")


def _state(arrays: Mapping[str, NDArray[np.float32]], heads: Sequence[str]) -> dict[str, Tensor]:
    """What of a file is weights, of these heads alone, under the names and in the shapes of MoveNet."""
    state = {}
    for name, array in arrays.items():
        short = PREFIX.sub("", name)
        for pattern, ours in NAMES:
            if (match := re.match(pattern, short)) and (pattern[: len(HEAD)] != HEAD or match[1] in heads):
                key = re.sub(r"\.\.", ".0.", match.expand(ours)).removesuffix(".weight").removesuffix(".")
                state[key + (".weight" if array.ndim == 4 else ".bias")] = _tensor(array, "depthwise" in key)
    return state


def _tensor(array: NDArray[np.float32], depthwise: bool) -> Tensor:
    """A kernel (h, w, in, out), of a depthwise one (h, w, channels, 1), or a bias, as torch has it."""
    tensor = torch.from_numpy(array)
    if tensor.ndim != 4:
        return tensor
    return tensor.permute(2, 3, 0, 1) if depthwise else tensor.permute(3, 2, 0, 1)
