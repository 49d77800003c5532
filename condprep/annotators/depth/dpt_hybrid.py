"""The DPT-hybrid depth network of MiDaS 3 (Ranftl et al. 2021): a ResNet-50 stem, a ViT-B, a convolutional decoder.

Our own definition in plain torch. Three things make it cheaper than the original without changing what it computes: the
kernels of the ResNet are standardised once when they are loaded, each 1 x 1 convolution of the decoder runs before the
enlarging that it commutes with, and the parts that never reach the output are left out.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condprep.annotators.precision import exact
from condprep.weights.find import WeightFile, load_state_dict, network_with

WIDTH, HEADS, LAYERS = 768, 12, 12  # ViT-B
TAPS = (8, 11)  # the transformer blocks that the decoder reads
FEATURES = 256  # of the decoder
STAGES = ((64, 256, 3, 1), (256, 512, 4, 2), (512, 1024, 9, 2))  # in, out, bottlenecks, stride


class Norm(nn.GroupNorm):
    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)


class Downsample(nn.Module):
    """The shortcut where a stage changes width and size."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
        self.norm = Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.norm(self.conv(x))
        return shortcut


class Bottleneck(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int, first: bool) -> None:
        super().__init__()
        middle = channels // 4
        self.stride = stride
        self.downsample = Downsample(channels_in, channels, stride) if first else nn.Identity()
        self.conv1, self.norm1 = nn.Conv2d(channels_in, middle, 1, bias=False), Norm(middle)
        self.conv2, self.norm2 = nn.Conv2d(middle, middle, 3, stride, bias=False), Norm(middle)
        self.conv3, self.norm3 = nn.Conv2d(middle, channels, 1, bias=False), Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = F.relu(self.norm2(self.conv2(same(y, 3, self.stride))), inplace=True)
        return F.relu(self.norm3(self.conv3(y)).add_(self.downsample(x)), inplace=True)


class Stem(nn.Module):
    """(B, 3, H, W) -> (B, 64, H/4, W/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 64, 7, 2, bias=False), Norm(64)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(same(x, 7, 2))), inplace=True)
        return F.max_pool2d(same(x, 3, 2, float("-inf")), 3, 2)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(Bottleneck(a if n == 0 else b, b, stride if n == 0 else 1, first=n == 0) for n in range(bottlenecks))
            )
            for a, b, bottlenecks, stride in STAGES
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> (B, 256, H/4, W/4), (B, 512, H/8, W/8), (B, 1024, H/16, W/16)."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class TransformerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.proj(self.attention(self.norm1(x)))
        x += self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)  # (B, heads, tokens, 64) each
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Reassemble(nn.Module):
    """Tokens of one transformer block -> a feature map; the class token is mixed into every other."""

    def __init__(self) -> None:
        super().__init__()
        self.readout = nn.Linear(2 * WIDTH, WIDTH)
        self.conv = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, 1 + h w, 768) -> (B, 768, h, w)."""
        patches = tokens[:, 1:]
        whole = tokens[:, :1].expand_as(patches)
        x = F.gelu(self.readout(torch.cat((patches, whole), -1)))
        features: Tensor = self.conv(x.transpose(1, 2).reshape(len(x), WIDTH, *grid))
        return features


class ResidualUnit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(FEATURES, FEATURES, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.relu(self.conv1(F.relu(x)), inplace=True))
        return x + change


class Fusion(nn.Module):
    """One step of the decoder: the coarser path, plus the skip, at twice the size. The coarsest step has no skip.

    Under autocast the path and the skip are in float32 all the same; what the units add to them is rounded.
    """

    def __init__(self, with_skip: bool) -> None:
        super().__init__()
        self.skip_unit = ResidualUnit() if with_skip else None
        self.unit = ResidualUnit()
        self.out = nn.Conv2d(FEATURES, FEATURES, 1)

    def forward(self, path: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip_unit is not None:
            path = path + self.skip_unit(skip)
        path = self.unit(path)
        with exact(path):
            return enlarge(self.out(path))


class DptHybrid(nn.Module):
    """Relative inverse depth: larger is nearer, without unit or zero point."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet()
        self.embed = nn.Conv2d(STAGES[-1][1], WIDTH, 1)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position = nn.Parameter(torch.zeros(1, 1 + 24 * 24, WIDTH))  # trained at 384 x 384
        self.blocks = nn.ModuleList(TransformerBlock() for _ in range(LAYERS))
        self.reassemble = nn.ModuleList(Reassemble() for _ in TAPS)
        self.halve = nn.Conv2d(WIDTH, WIDTH, 3, 2, padding=1)
        self.skips = nn.ModuleList(
            nn.Conv2d(width, FEATURES, 3, padding=1, bias=False) for width in (256, 512, WIDTH, WIDTH)
        )
        self.fusions = nn.ModuleList(Fusion(with_skip=n < 3) for n in range(4))
        self.head = nn.ModuleList(
            (nn.Conv2d(FEATURES, 128, 3, padding=1), nn.Conv2d(128, 32, 3, padding=1), nn.Conv2d(32, 1, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) float32 RGB -1..1, sides multiples of 32 -> (B, 1, H, W) float32 >= 0.

        Under autocast the ResNet, the finest skip, the decoder's path and the last two convolutions stay in float32: of
        the error that bf16 makes everywhere they were measured to make the most, for a fifth of the work.
        """
        with exact(x):
            fine, middle, coarse = self.resnet(x)
            skip = self.skips[0](fine)
        path = self.fusions[0](self.decode(middle, *self.transformer(coarse)), skip)
        path = self.head[0](path)
        with exact(x):
            return F.relu(self.head[2](F.relu(self.head[1](enlarge(path.float())), inplace=True)))

    def decode(self, middle: Tensor, *taps: Tensor) -> Tensor:
        """(B, 512, H/8, W/8) and two (B, 768, H/16, W/16) -> (B, 256, H/4, W/4): the three coarser steps."""
        path = self.fusions[3](self.skips[3](self.halve(taps[1])).float())
        path = self.fusions[2](path, self.skips[2](taps[0]).float())
        decoded: Tensor = self.fusions[1](path, self.skips[1](middle).float())
        return decoded

    def transformer(self, features: Tensor) -> list[Tensor]:
        """(B, 1024, h, w) -> a feature map (B, 768, h, w) after each of the tapped blocks."""
        grid = features.shape[-2:]
        x = self.embed(features).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(len(x), -1, -1), x), 1) + self.positions(grid)
        tapped = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in TAPS:
                tapped.append(x)
        return [reassemble(tokens, grid) for reassemble, tokens in zip(self.reassemble, tapped)]

    def positions(self, grid: torch.Size) -> Tensor:
        """The position embedding, its 24 x 24 patches stretched to the picture's grid."""
        token, patches = self.position[:, :1], self.position[:, 1:]
        square = patches.transpose(1, 2).reshape(1, WIDTH, 24, 24)
        stretched = F.interpolate(square, tuple(grid), mode="bilinear")
        return torch.cat((token, stretched.flatten(2).transpose(1, 2)), 1)


def enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pads as TensorFlow's "SAME" for sides that the stride divides: what is odd goes to the right and the bottom."""
    total = kernel - stride
    pads = (total // 2, total - total // 2)
    return F.pad(x, pads * 2, value=value)


# Our names for the prefixes in `dpt_hybrid-midas-501f0c75.pt`; "" is never reached by the output.
RENAMED = (
    (r"pretrained\.model\.(head|norm)\..*", ""),
    (r"scratch\.refinenet4\.resConfUnit1\..*", ""),
    (r"pretrained\.model\.patch_embed\.backbone\.", "resnet."),
    (r"(resnet\.stages\.\d+\.)blocks\.", r"\1"),
    (r"pretrained\.model\.patch_embed\.proj\.", "embed."),
    (r"pretrained\.model\.cls_token", "class_token"),
    (r"pretrained\.model\.pos_embed", "position"),
    (r"pretrained\.model\.(blocks\.\d+\.)(?:attn\.|mlp\.)?", r"\1"),
    (r"pretrained\.act_postprocess4\.4\.", "halve."),
    (r"pretrained\.act_postprocess([34])\.0\.project\.0\.", lambda m: f"reassemble.{int(m[1]) - 3}.readout."),
    (r"pretrained\.act_postprocess([34])\.3\.", lambda m: f"reassemble.{int(m[1]) - 3}.conv."),
    (r"scratch\.layer(\d)_rn\.", lambda m: f"skips.{int(m[1]) - 1}."),
    (r"scratch\.refinenet(\d)\.", lambda m: f"fusions.{int(m[1]) - 1}."),
    (r"(fusions\.\d\.)resConfUnit1\.", r"\1skip_unit."),
    (r"(fusions\.\d\.)resConfUnit2\.", r"\1unit."),
    (r"(fusions\.\d\.)out_conv\.", r"\1out."),
    (r"scratch\.output_conv\.([024])\.", lambda m: f"head.{int(m[1]) // 2}."),
)


def rename(key: str) -> str:
    """A key of MiDaS' checkpoint -> ours, "" for what is left out; an unknown key stays as it is."""
    for pattern, name in RENAMED:
        key = re.sub(rf"^{pattern}", name, key)
    return key


def standardise(kernel: Tensor) -> Tensor:
    """Zero mean and unit variance for each output channel, as the ResNet's convolutions do on every call."""
    variance, mean = torch.var_mean(kernel.float(), (1, 2, 3), correction=0, keepdim=True)
    return (kernel - mean) / (variance + 1e-8).sqrt()


def load_network(file: WeightFile) -> DptHybrid:
    """The network with the weights of `dpt_hybrid-midas-501f0c75.pt`. Raises WeightsError for another model's."""
    renamed = {rename(key): value for key, value in load_state_dict(file).items()}
    renamed.pop("", None)
    state = {
        key: standardise(value) if key.startswith("resnet.") and value.ndim == 4 else value
        for key, value in renamed.items()
    }
    return network_with(DptHybrid, state, file).eval()
