"""The normals of Bae et al. 2021 (aleatoric uncertainty, ScanNet), as `scannet.pt` has them, with their annotator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condprep.annotators.gridded import Gridded
from condprep.annotators.normals.efficientnet import HEAD, EfficientNet
from condprep.annotators.precision import NetworkParams, resolve_precision
from condprep.types import Maps
from condprep.weights.find import Weights, load_state_dict, network_with

FILE = "scannet.pt"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
SKIPPED = (176, 64, 40, 24)  # channels of the features that come past the smaller scales
WIDTHS = (1024, 512, 256, 128)
HIDDEN = 128  # channels of the three networks that refine pixel by pixel
SMALLEST = 1e-10  # added to a length before it divides


class Up(nn.Module):
    """Features enlarged to those of the next scale and looked at together with them."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (channels_in, channels):
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.LeakyReLU()]
        self._net = nn.Sequential(*layers)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=True)
        found: Tensor = self._net(torch.cat((coarse, fine), 1))
        return found


def refinement(channels: int) -> nn.Sequential:
    """Pixel by pixel: features and the coarser scale's answer -> the answer, (B, 4, pixels)."""
    layers: list[nn.Module] = []
    for width in (channels + 4, HIDDEN, HIDDEN):
        layers += [nn.Conv1d(width, HIDDEN, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv1d(HIDDEN, 4, 1))


class Decoder(nn.Module):
    """Features of five scales -> unit normals and how sure they are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(HEAD, HEAD, 1)
        for number, (skipped, below, width) in enumerate(zip(SKIPPED, (HEAD, *WIDTHS), WIDTHS), start=1):
            self.add_module(f"up{number}", Up(below + skipped, width))
        self.out_conv_res8 = nn.Conv2d(WIDTHS[1], 4, 3, padding=1)
        for scale, width in zip((4, 2, 1), WIDTHS[1:]):
            self.add_module(f"out_conv_res{scale}", refinement(width))

    def forward(self, features: list[Tensor]) -> Tensor:
        """As EfficientNet gives them -> (B, 4, H, W) of the picture's size: x, y, z, certainty."""
        *fine, x = features
        x, ups = self.conv2(x), []
        for number, skipped in enumerate(reversed(fine), start=1):
            x = self.get_submodule(f"up{number}")(x, skipped)
            ups.append(x)
        answer = unit(self.out_conv_res8(ups[1]))
        for scale, seen in zip((4, 2, 1), ups[1:]):
            answer = torch.cat(
                [self._refined(scale, *one) for one in zip(torch.split(seen, 1), torch.split(answer, 1))]
            )
        return answer

    def _refined(self, scale: int, seen: Tensor, answer: Tensor) -> Tensor:
        """One picture at twice the size: its 132 to 516 channels at full size are what needs most memory."""
        seen, answer = (F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True) for x in (seen, answer))
        together = torch.cat((seen, answer), 1)
        found = self.get_submodule(f"out_conv_res{scale}")(together.flatten(2))
        return unit(found).view(1, 4, *together.shape[-2:])


def unit(answer: Tensor) -> Tensor:
    """(B, 4, ...): the first three as a unit vector, the last above 0.01."""
    x, y, z, certainty = torch.split(answer.float(), 1, 1)
    length = torch.sqrt(x**2.0 + y**2.0 + z**2.0) + SMALLEST
    return torch.cat((x / length, y / length, z / length, F.elu(certainty) + 1.0 + 0.01), 1)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.original_model = EfficientNet()


class BaeNetwork(nn.Module):
    """The state dict is that of `scannet.pt`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()

    def forward(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) float32 RGB 0..255, sides multiples of 32 -> unit normals (B, 3, H, W) float32."""
        colours = zip(torch.split(rgb / 255, 1, 1), MEAN, DEVIATION)
        seen = torch.cat([(colour - mean) / deviation for colour, mean, deviation in colours], 1)
        answer: Tensor = self.decoder(self.encoder.original_model(seen))
        return answer[:, :3]


class NormalBae(Gridded):
    """Surface normals, three channels: 127.5 + 127.5 n of x, y and z."""

    name = "normalbae"

    @torch.inference_mode()
    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 3, H, W) uint8."""
        return Maps((((self.answer(rgb) + 1) * 0.5).clamp(0, 1) * 255).byte())


def load(variant: str, params: NetworkParams, *, device: str, weights: Weights) -> NormalBae:
    """Raises WeightsError."""
    file = weights.get(FILE)
    state = load_state_dict(file, "model")
    used = {key: value for key, value in state.items() if not key.startswith("encoder.original_model.bn2.")}
    network, precision = network_with(BaeNetwork, used, file), resolve_precision(params.precision, device, "normalbae")
    return NormalBae(network, variant, file=file, device=device, precision=precision, batch_size=8)
