"""M-LSD (Towards Light-weight and Real-time Line Segment Detection, Gu et al. 2022), the large one, on MobileNetV2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM = 32  # channels
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
)  # expansion, channels, blocks, stride
SEEN = (1, 3, 6, 10, 13)  # layers whose features are used, of 16, 24, 32, 64 and 96 channels
WIDE = 64  # channels on the way up
UNUSED = 7  # channels of the answer that only training needed


class Conv(nn.Sequential):
    """Convolution, norm and ReLU6; where it halves, the border is at the right and the bottom alone."""

    def __init__(self, channels_in: int, channels: int, side: int, stride: int = 1, groups: int = 1) -> None:
        padding = 0 if stride == 2 else side // 2
        conv = nn.Conv2d(channels_in, channels, side, stride, padding, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(channels), nn.ReLU6())
        self.halves = stride == 2

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, bent = self
        found: Tensor = bent(norm(conv(F.pad(x, (0, 1, 0, 1)) if self.halves else x)))
        return found


class Inverted(nn.Module):
    """MobileNetV2's block: wide, each channel by itself, narrow."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        widened = [Conv(channels_in, wide, 1)] if expansion > 1 else []
        narrowed = [nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.conv = nn.Sequential(*widened, Conv(wide, wide, 3, stride, groups=wide), *narrowed)
        self.adds = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return x + found if self.adds else found


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv(4, STEM, 3, stride=2)]
        width = STEM
        for expansion, channels, blocks, stride in STAGES:
            for number in range(blocks):
                layers.append(Inverted(width, channels, 1 if number else stride, expansion))
                width = channels
        self.features = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        seen = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in SEEN:
                seen.append(x)
        return seen


def normed(channels_in: int, channels: int, side: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (side // 2)
    conv = nn.Conv2d(channels_in, channels, side, padding=padding, dilation=dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


class Merge(nn.Module):
    """A scale's features beside those of the smaller one, which are doubled."""

    def __init__(self, fine: int, coarse: int, *, doubles: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.doubles = normed(coarse, WIDE, 1), normed(fine, WIDE, 1), doubles

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        coarse = self.conv1(coarse)
        if self.doubles:
            coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=True)
        return torch.cat((self.conv2(fine), coarse), 1)


class Refine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = normed(2 * WIDE, 2 * WIDE, 3), normed(2 * WIDE, WIDE, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv2(self.conv1(x) + x)
        return found


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = normed(WIDE, WIDE, 3, dilation=5), normed(WIDE, WIDE, 3)
        self.conv3 = nn.Conv2d(WIDE, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv3(self.conv2(self.conv1(x)))
        return found


class MlsdNetwork(nn.Module):
    """The state dict is that of `mlsd_large_512_fp32.pth`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        for number, (fine, coarse) in zip((15, 17, 19, 21), ((64, 96), (32, WIDE), (24, WIDE), (16, WIDE))):
            self.add_module(f"block{number}", Merge(fine, coarse, doubles=number > 15))
            self.add_module(f"block{number + 1}", Refine())
        self.block23 = Head()

    def forward(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) float32 RGB 0..255, sides multiples of 16 -> (B, 9, H / 2, W / 2).

        First how likely a segment's middle is there, as a logit, then how far its two ends lie from it, x and y in
        pixels of this answer. The network sees a fourth channel that is 1 of 255 everywhere.
        """
        seen = torch.cat((rgb, torch.ones_like(rgb[:, :1])), 1) / 127.5 - 1
        *finer, x = self.backbone(seen)
        for number, fine in zip((15, 17, 19, 21), reversed(finer)):
            x = self.get_submodule(f"block{number + 1}")(self.get_submodule(f"block{number}")(fine, x))
        answer: Tensor = self.block23(x)
        return answer[:, UNUSED:]
