"""Frozen weights in 8 bits, e4m3 (Micikevicius et al., 2022), so that a base takes half the memory of bf16 beside what is trained.

A weight is widened where it is used, for one layer at a time: in the forward pass, and again in the backward pass, which
through a frozen layer needs its weight and nothing else. No kernel for 8 bits is needed, so it works on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

NARROW = torch.float8_e4m3fn
LARGEST = 448.0  # that it can hold
LEAST_SCALE = 2.0**-14  # the least that fp16 holds in full, to which a base may be cast
# small, and everything goes through them: of UNets, and of transformers
WIDE = ("conv_in", "conv_out", "time_embedding", "add_embedding")
WIDE_OF_TRANSFORMERS = (
    *("pos_embed", "time_text_embed", "x_embedder", "context_embedder", "norm_out", "proj_out"),
    *("img_in", "txt_in", "t_embedder", "cap_embedder", "all_x_embedder", "all_final_layer"),
)


def quantize(network: nn.Module, wide: Sequence[str] = WIDE + WIDE_OF_TRANSFORMERS) -> None:
    """Replace the weights of its linear layers and convolutions by 8 bits, in place, but for its own parts of those names.

    It must be frozen.

    To be called on float32 weights, which are rounded once then. Biases and norms stay as they are.
    """
    for name, child in network.named_children():
        if name in wide:
            continue
        if isinstance(child, nn.Linear | nn.Conv2d):
            setattr(network, name, Quantized(child))
        else:
            quantize(child, wide=())


class Quantized(nn.Module):
    """A frozen linear layer, or a convolution without groups, whose weight has 8 bits and a scale for each output.

    A scale is a power of two, so that it is exact in any dtype, and the codes are bytes, so that no cast of the network
    changes them.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        weight = layer.weight.detach()  # (outputs, ...)
        largest = weight.flatten(1).abs().amax(1).float()
        scale = torch.exp2((largest / LARGEST).clamp_min(LEAST_SCALE).log2().ceil()).reshape(
            -1, *[1] * (weight.ndim - 1)
        )
        self.codes: Tensor
        self.scale: Tensor
        self.register_buffer("codes", (weight / scale).to(NARROW).view(torch.uint8))
        self.register_buffer("scale", scale.to(weight.dtype))
        self.bias = layer.bias
        self.geometry = (layer.stride, layer.padding) if isinstance(layer, nn.Conv2d) else None

    def forward(self, inputs: Tensor) -> Tensor:
        """As the layer's own. The weight has the dtype of the inputs."""
        result: Tensor = _Frozen.apply(inputs, self.codes, self.scale, self.bias, self.geometry)
        return result


def widened(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight."""
    return codes.view(NARROW).to(dtype) * scale.to(dtype)


class _Frozen(torch.autograd.Function):
    """A layer of which the inputs alone have a gradient; between the passes it keeps 8 bits."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None, geometry: Any) -> Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.geometry, ctx.shape = geometry, inputs.shape
        weight = widened(codes, scale, inputs.dtype)
        if geometry is None:
            return F.linear(inputs, weight, bias)
        stride, padding = geometry
        return F.conv2d(inputs, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        codes, scale = ctx.saved_tensors
        weight = widened(codes, scale, grad.dtype)
        if ctx.geometry is None:
            return grad @ weight, None, None, None, None
        stride, padding = ctx.geometry
        found = conv2d_input(ctx.shape, weight, grad, stride, padding)  # type: ignore[no-untyped-call]
        return found, None, None, None, None
