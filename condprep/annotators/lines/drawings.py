"""Two networks that redraw a picture in lines: Informative Drawings (Chan et al. 2022), and one of anime (a U-Net)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, RESIDUALS = 64, 3  # of `sk_model.pth`
WIDTHS = (64, 128, 256, 512, 512, 512, 512, 512)  # channels of `netG.pth` from the largest scale to the smallest


class Residual(nn.Module):
    """Two convolutions whose border is mirrored, added to what they take."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        norm = nn.InstanceNorm2d(channels)  # without parameters: it may stand twice
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), norm]
        again = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), norm]
        self.conv_block = nn.Sequential(*layers, nn.ReLU(), *again)

    def forward(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.conv_block(x)
        return x + drawn


def bent(conv: nn.Module, channels: int) -> list[nn.Module]:
    return [conv, nn.InstanceNorm2d(channels), nn.ReLU()]


def doubled(channels_in: int, channels: int) -> list[nn.Module]:
    return bent(nn.ConvTranspose2d(channels_in, channels, 3, stride=2, padding=1, output_padding=1), channels)


class Drawing(nn.Module):
    """Halved twice, redrawn, doubled twice. The state dict is that of `sk_model.pth` and `sk_model2.pth`."""

    def __init__(self) -> None:
        super().__init__()
        two, four = 2 * WIDTH, 4 * WIDTH
        self.model0 = nn.Sequential(nn.ReflectionPad2d(3), *bent(nn.Conv2d(3, WIDTH, 7), WIDTH))
        self.model1 = nn.Sequential(
            *bent(nn.Conv2d(WIDTH, two, 3, stride=2, padding=1), two),
            *bent(nn.Conv2d(two, four, 3, stride=2, padding=1), four),
        )
        self.model2 = nn.Sequential(*(Residual(four) for _ in range(RESIDUALS)))
        self.model3 = nn.Sequential(*doubled(four, two), *doubled(two, WIDTH))
        self.model4 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(WIDTH, 1, 7))

    def forward(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) float32 RGB 0..255, sides multiples of 4 -> how light the paper is, (B, 1, H, W), 0..255."""
        x = self.model2(self.model1(self.model0(rgb / 255)))
        paper: Tensor = self.model4(self.model3(x)).float().sigmoid()
        return paper * 255


class AnimeDrawing(nn.Module):
    """A U-Net down to one pixel of 256. Its weights are those of `netG.pth` under names of their own: `renamed`."""

    def __init__(self) -> None:
        super().__init__()
        down = zip((3, *WIDTHS), WIDTHS)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in down)
        last = len(WIDTHS) - 1
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b if n == last else 2 * b, a, 4, stride=2, padding=1)
            for n, (a, b) in enumerate(zip((1, *WIDTHS), WIDTHS))
        )

    def forward(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) float32 RGB 0..255, sides multiples of 256 -> how light the paper is, (B, 1, H, W), 0..255."""
        x, last, kept = rgb / 127.5 - 1, len(self.down) - 1, []
        for number, conv in enumerate(self.down):
            x = conv(F.leaky_relu(x, 0.2) if number else x)
            if 0 < number < last:
                x = F.instance_norm(x)
            kept.append(x)
        x = kept.pop()
        for conv in reversed(self.up[1:]):
            x = torch.cat((kept.pop(), F.instance_norm(conv(F.relu(x)))), 1)
        drawn: Tensor = self.up[0](F.relu(x)).float().tanh()
        return drawn * 127.5 + 127.5


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`netG.pth`, where each scale lies within the one above it, with the names of AnimeDrawing; others stay as they are."""
    names: dict[str, str] = {}
    inside = "model.model"
    for number in range(len(WIDTHS)):
        down, up = (0, 3) if not number else (1, 3 if number == len(WIDTHS) - 1 else 5)
        names |= {f"{inside}.{down}": f"down.{number}", f"{inside}.{up}": f"up.{number}"}
        inside += ".3.model" if number else ".1.model"
    plain = {key.replace("module.", ""): value for key, value in state.items()}
    parts = {key: key.rpartition(".") for key in plain}
    return {f"{names.get(parts[key][0], parts[key][0])}.{parts[key][2]}": value for key, value in plain.items()}
