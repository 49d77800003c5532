"""PiDiNet (Pixel Difference Networks, Su et al. 2021) as `table5_pidinet.pth` has it: 60 channels, attention, dilation."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from condprep.annotators.precision import exact

WIDTHS = (60, 120, 240, 240)  # channels at each scale
BLOCKS = (3, 4, 4, 4)  # and blocks
COARSEST = len(BLOCKS) - 1
KINDS = ("centre", "angle", "radius", "plain")  # of difference, layer after layer, over and over
NARROW, ATTENTION = 24, 4  # channels in which edges are read off, and which say where to look
DILATIONS = (5, 7, 9, 11)

TURNED = [3, 0, 1, 6, 4, 2, 7, 8, 5]  # the next pixel around the centre, clockwise, of each of 3 x 3
FAR = [0, 2, 4, 10, 14, 20, 22, 24]  # in 5 x 5: the pixels at twice the distance of the eight around the centre,
NEAR = [6, 7, 8, 11, 13, 16, 17, 18]  # and those eight


class Difference(nn.Module):
    """A 3 x 3 convolution of what pixels differ by: from the centre, from the next around it, or along a radius.

    It is for inference: its kernel is made of the weights when it first computes on a device.
    """

    def __init__(self, kind: str, channels_in: int, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.kind, self.groups = kind, groups
        self.weight = nn.Parameter(torch.empty(channels, channels_in // groups, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as torch's own convolutions begin
        self._kept: tuple[Tensor, Tensor | None] | None = None  # its kernel, and the one of what is taken away

    def forward(self, x: Tensor) -> Tensor:
        kernel, centre = self._kernels(x)
        found = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=self.groups)
        return found if centre is None else found - F.conv2d(x, centre, groups=self.groups)

    def _kernels(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._kept and self._kept[0].device == x.device:
            return self._kept
        made = self._made(), self.weight.sum((2, 3), keepdim=True) if self.kind == "centre" else None
        if not isinstance(x, FakeTensor):  # whose kernels have no numbers either
            self._kept = made
        return made

    def _made(self) -> Tensor:
        flat = self.weight.flatten(2)
        if self.kind == "angle":
            return (flat - flat[..., TURNED]).view_as(self.weight)
        if self.kind == "radius":
            kernel = flat.new_zeros(*flat.shape[:2], 25)
            kernel[..., FAR], kernel[..., NEAR] = flat[..., 1:], -flat[..., 1:]
            return kernel.view(*flat.shape[:2], 5, 5)
        return self.weight


class Block(nn.Module):
    """Differences in each channel, then over channels, beside the input."""

    def __init__(self, kind: str, channels_in: int, channels: int, *, halves: bool) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if halves else nn.Identity()
        self.conv1 = Difference(kind, channels_in, channels_in, groups=channels_in)
        self.conv2 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, 2) if self.halves else x
        found: Tensor = self.conv2(F.relu(self.conv1(x)))
        beside: Tensor = self.shortcut(x)
        return found + beside


class Dilations(nn.Module):
    """Few channels, from four distances."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, NARROW, 1)
        for number, distance in enumerate(DILATIONS, start=1):
            conv = nn.Conv2d(NARROW, NARROW, 3, padding=distance, dilation=distance, bias=False)
            self.add_module(f"conv2_{number}", conv)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(F.relu(x))
        first, *others = (self.get_submodule(f"conv2_{n}")(x) for n in range(1, len(DILATIONS) + 1))
        total: Tensor = first
        for other in others:
            total = total + other
        return total


class Attention(nn.Module):
    """Where to look, times what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(NARROW, ATTENTION, 1)
        self.conv2 = nn.Conv2d(ATTENTION, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        where: Tensor = self.conv2(self.conv1(F.relu(x))).sigmoid()
        return x * where


class Reduction(nn.Module):
    """The edges of one scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(NARROW, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        edges: Tensor = self.conv(x)
        return edges


class PidiNetwork(nn.Module):
    """The state dict is that of `table5_pidinet.pth`."""

    def __init__(self) -> None:
        super().__init__()
        self.init_block = Difference("centre", 3, WIDTHS[0])
        layer, width = 1, WIDTHS[0]
        for scale, (channels, blocks) in enumerate(zip(WIDTHS, BLOCKS), start=1):
            for number in range(1, blocks + 1):
                halves = scale > 1 and number == 1
                kind = KINDS[layer % len(KINDS)]
                self.add_module(f"block{scale}_{number}", Block(kind, width, channels, halves=halves))
                layer, width = layer + 1, channels
        self.dilations = nn.ModuleList(map(Dilations, WIDTHS))
        self.attentions = nn.ModuleList(Attention() for _ in WIDTHS)
        self.conv_reduces = nn.ModuleList(Reduction() for _ in WIDTHS)
        self.classifier = nn.Conv2d(len(WIDTHS), 1, 1)

    def forward(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) float32 RGB 0..255, sides multiples of 8 -> logits (B, 1, H, W).

        Under autocast the coarsest scale stays in float32: of patterns as fine as a pixel its values are three times fp16's largest.
        """
        x, edges = self.init_block(rgb.flip(1) / 255), []
        for scale, blocks in enumerate(BLOCKS):
            with exact(x) if scale == COARSEST else nullcontext():
                x = x.float() if scale == COARSEST else x
                for number in range(1, blocks + 1):
                    x = self.get_submodule(f"block{scale + 1}_{number}")(x)
                seen = self.conv_reduces[scale](self.attentions[scale](self.dilations[scale](x)))
            edges.append(F.interpolate(seen, rgb.shape[-2:], mode="bilinear"))
        logits: Tensor = self.classifier(torch.cat(edges, 1))
        return logits
