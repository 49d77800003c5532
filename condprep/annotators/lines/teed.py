"""TEED (Tiny and Efficient Edge Detector, Soria et al. 2023), as `5_model.pth` has it: 58,000 parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL, MIDDLE, LARGE = 16, 32, 48  # channels
FUSED = 8  # channels that each of the three scales gets in the fusion


def smish(x: Tensor) -> Tensor:
    """Its activation: x tanh(ln(1 + sigmoid(x)))."""
    return x * torch.tanh(torch.log(1 + torch.sigmoid(x)))


class Smish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return smish(x)


class Pair(nn.Module):
    """Two 3 x 3 convolutions."""

    def __init__(self, channels_in: int, channels: int, *, stride: int = 1, bent: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bent = bent

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv2(smish(self.conv1(x)))
        return smish(found) if self.bent else found


class Side(nn.Module):
    """A way past a block."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found


class Dense(nn.Module):
    """Two convolutions, the first of them over a wider border, averaged with what comes past them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(MIDDLE, LARGE, 3, padding=2)
        self.conv2 = nn.Conv2d(LARGE, LARGE, 3)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        found: Tensor = self.conv2(smish(self.conv1(smish(x))))
        return 0.5 * (found + beside)


def enlarged(channels: int, doublings: int) -> nn.Sequential:
    """Edges of one scale at the picture's size: doubled by transposed convolutions of 2 ** doublings pixels."""
    side, layers = 2**doublings, []
    for number in range(doublings):
        made = 1 if number == doublings - 1 else SMALL
        enlarge = nn.ConvTranspose2d(made, made, side, stride=2, padding=side // 2 - 1)
        layers += [nn.Conv2d(channels, made, 1), Smish(), enlarge]
        channels = made
    return nn.Sequential(*layers)


class Fusion(nn.Module):
    """The three scales together."""

    def __init__(self) -> None:
        super().__init__()
        self.DWconv1 = nn.Conv2d(3, 3 * FUSED, 3, padding=1, groups=3)
        self.DWconv2 = nn.Conv2d(3 * FUSED, 3 * FUSED, 3, padding=1, groups=3 * FUSED)

    def forward(self, edges: Tensor) -> Tensor:
        first = self.DWconv1(smish(edges))
        return smish((self.DWconv2(smish(first)) + first).sum(1, keepdim=True))


class Teed(nn.Module):
    """The state dict is that of `5_model.pth`."""

    def __init__(self) -> None:
        super().__init__()
        self.block_1 = Pair(3, SMALL, stride=2)
        self.block_2 = Pair(SMALL, MIDDLE, bent=False)
        self.dblock_3 = nn.ModuleDict({"denselayer1": Dense()})
        self.side_1 = Side(SMALL, MIDDLE, 2)
        self.pre_dense_3 = Side(MIDDLE, LARGE, 1)
        for number, (channels, doublings) in enumerate(((SMALL, 1), (MIDDLE, 1), (LARGE, 2)), start=1):
            self.add_module(f"up_block_{number}", nn.ModuleDict({"features": enlarged(channels, doublings)}))
        self.block_cat = Fusion()

    def forward(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) float32 RGB 0..255, sides multiples of 4 -> logits (B, 1, H, W), the mean of four."""
        first = self.block_1(rgb)
        second = self.block_2(first)
        down = F.max_pool2d(second, 3, stride=2, padding=1)
        third = self.dblock_3["denselayer1"](down + self.side_1(first), self.pre_dense_3(down))
        features = (first, second, third)
        edges = [self.get_submodule(f"up_block_{n}.features")(one) for n, one in enumerate(features, start=1)]
        fused = self.block_cat(torch.cat(edges, 1))
        total: Tensor = edges[0] + edges[1] + edges[2] + fused
        return total / 4
