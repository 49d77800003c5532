"""EfficientNet-B5 (Tan and Le 2019) as TensorFlow trained it, up to its last convolution: features of five scales."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STEM, HEAD = 48, 2048  # channels
STAGES = (  # blocks, side of the kernel, stride, expansion, channels
    (3, 3, 1, 1, 24),
    (5, 3, 2, 6, 40),
    (5, 5, 2, 6, 64),
    (7, 3, 2, 6, 128),
    (7, 5, 1, 6, 176),
    (9, 5, 2, 6, 304),
    (3, 3, 1, 6, 512),
)
SEEN = (0, 1, 2, 4)  # stages whose features are used, of 1/2, 1/4, 1/8 and 1/16 of the picture's size
SQUEEZED = 4  # how many times fewer channels weigh the others
EPSILON = 1e-3  # TensorFlow's


class Conv(nn.Conv2d):
    """A convolution whose border is TensorFlow's: where it halves (an even size), the odd pixel is at the right and the bottom."""

    def __init__(self, channels_in: int, channels: int, side: int, stride: int = 1, groups: int = 1) -> None:
        padding = side // 2 if stride == 1 else 0
        super().__init__(channels_in, channels, side, stride, padding, groups=groups, bias=False)
        before = (side - 2) // 2
        self.border = [before, side - 2 - before] * 2 if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.border) if self.border else x)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)


class Weighing(nn.Module):
    """Squeeze and excitation: each channel times a weight that the mean of all channels gives."""

    def __init__(self, channels: int, few: int) -> None:
        super().__init__()
        self.conv_reduce, self.conv_expand = nn.Conv2d(channels, few, 1), nn.Conv2d(few, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.conv_expand(F.silu(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * weight.sigmoid()


class Block(nn.Module):
    """Wide (where it expands), each channel by itself, weighed, narrow; added to what it takes where that fits."""

    def __init__(self, channels_in: int, channels: int, side: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expands = expansion > 1
        if self.expands:
            self.conv_pw, self.bn1 = Conv(channels_in, wide, 1), norm(wide)
        self.conv_dw = Conv(wide, wide, side, stride, groups=wide)
        self.se = Weighing(wide, channels_in // SQUEEZED)
        names = ("bn2", "conv_pwl", "bn3") if self.expands else ("bn1", "conv_pw", "bn2")
        for name, part in zip(names, (norm(wide), Conv(wide, channels, 1), norm(channels))):
            self.add_module(name, part)
        self.after, self.narrow, self.last = names
        self.adds = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        taken = x
        if self.expands:
            x = F.silu(self.bn1(self.conv_pw(x)))
        x = self.se(F.silu(self.get_submodule(self.after)(self.conv_dw(x))))
        x = self.get_submodule(self.last)(self.get_submodule(self.narrow)(x))
        return x + taken if self.adds else x


class EfficientNet(nn.Module):
    """The state dict is that of `encoder.original_model` in `scannet.pt`, but for its last norm, which nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = Conv(3, STEM, 3, stride=2), norm(STEM)
        stages, width = [], STEM
        for blocks, side, stride, expansion, channels in STAGES:
            stage = nn.Sequential()
            for number in range(blocks):
                stage.append(Block(width, channels, side, 1 if number else stride, expansion))
                width = channels
            stages.append(stage)
        self.blocks = nn.ModuleList(stages)
        self.conv_head = Conv(width, HEAD, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) float32, sides multiples of 32 -> features of 1/2, 1/4, 1/8, 1/16 and 1/32 of its size."""
        x, seen = F.silu(self.bn1(self.conv_stem(x))), []
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in SEEN:
                seen.append(x)
        return [*seen, self.conv_head(x)]
