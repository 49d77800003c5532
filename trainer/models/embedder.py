"""The condition embedder of a UNet's ControlNet, and weights to begin with through which a map keeps its contrast.

diffusers' ControlNetConditioningEmbedding has its convolutions as PyTorch makes them, of a standard deviation of 1 / sqrt(3 fan_in),
and silu halves what is small: of what a map's places differ by, each of seven layers lets 0.3 to 0.5 through, and a few thousandths
are left where the zero convolution begins to learn, beside biases that are the same everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SQUARE, SQUARES = 8, 32  # pixels of a side, and how many of them a side of the probe has


@torch.no_grad()
def let_through(embedder: Any) -> None:
    """Draw the weights of an embedder of diffusers anew, such that a probe leaves each layer with a deviation of 1 among its places.

    The probe is of squares of random colours: flat parts and edges at once. The zero convolution behind the layers stays.
    """
    seen = torch.rand(1, embedder.conv_in.in_channels, SQUARES, SQUARES, device=embedder.conv_in.weight.device)
    seen = F.interpolate(seen, scale_factor=SQUARE)
    for layer in (embedder.conv_in, *embedder.blocks):
        nn.init.normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        found = layer(seen)
        deviation = deviation_of(found)
        layer.weight.div_(deviation)
        seen = F.silu(found / deviation)


def deviation_of(values: Tensor) -> Tensor:
    """Of (B, C, H, W) among places, root mean square over channels."""
    return values.flatten(2).var(2).mean().sqrt()
