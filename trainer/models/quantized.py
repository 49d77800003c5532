"""Frozen weights in 8 bits, e4m3 (Micikevicius et al., 2022), or in 4, NF4 (Dettmers et al., 2023), so that a base takes half, or a
quarter, of the memory of bf16 beside what is trained.

A weight is widened where it is used, for one layer at a time: in the forward pass, and again in the backward pass, which
through a frozen layer needs its weight and nothing else. No kernel for 8 bits is needed, so it works on every device; those for
4 bits are bitsandbytes'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from trainer.errors import MachineError

Kind = Literal["fp8", "nf4"]

NARROW = torch.float8_e4m3fn
LARGEST = 448.0  # that it can hold
LEAST_SCALE = 2.0**-14  # the least that fp16 holds in full, to which a base may be cast
BLOCK = 64  # weights that share a scale in NF4
# small, and everything goes through them: of UNets, and of transformers
WIDE = ("conv_in", "conv_out", "time_embedding", "add_embedding")
WIDE_OF_TRANSFORMERS = (
    *("pos_embed", "time_text_embed", "x_embedder", "context_embedder", "norm_out", "proj_out"),
    *("img_in", "txt_in", "t_embedder", "cap_embedder", "all_x_embedder", "all_final_layer"),
)


def check_quantizer(kind: str) -> None:
    """Raises MachineError where the machine lacks what the recipe's model.quantize needs."""
    if kind == "nf4" and not find_spec("bitsandbytes"):
        raise MachineError('model.quantize = "nf4" needs bitsandbytes: pip install bitsandbytes, or say "fp8"')


def quantize(network: nn.Module, kind: Kind = "fp8", wide: Sequence[str] = WIDE + WIDE_OF_TRANSFORMERS) -> None:
    """Replace the weights of its linear layers and convolutions by 8 bits, in place, but for its own parts of those names.

    kind: "nf4" for 4 bits, of the linear layers alone. To be called on float32 weights, or on those of a file, which are rounded
    once then. Biases and norms stay as they are. Raises ValueError for weights that are trained.
    """
    if any(weight.requires_grad for weight in network.parameters()):
        raise ValueError(f"{type(network).__name__} is trained: rounded weights would not change by small steps")
    narrow: type[nn.Module] = Quantized if kind == "fp8" else Quantized4
    which = (nn.Linear, nn.Conv2d) if kind == "fp8" else nn.Linear
    for name, child in network.named_children():
        if name in wide:
            continue
        if isinstance(child, which):
            setattr(network, name, narrow(child))
        else:
            quantize(child, kind, wide=())


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
        result: Tensor = _Frozen.apply(inputs, widened, self.bias, self.geometry, self.codes, self.scale)
        return result


def widened(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight."""
    return codes.view(NARROW).to(dtype) * scale.to(dtype)


class Quantized4(nn.Module):
    """A frozen linear layer whose weight has 4 bits, codes of NF4, and a scale for each 64 of them.

    Scales, and the values that codes stand for, are kept as the bits of fp32, so that no cast of the network changes them.
    """

    def __init__(self, layer: nn.Linear) -> None:
        from bitsandbytes.functional import quantize_4bit

        super().__init__()
        weight = layer.weight.detach().contiguous()
        codes, state = quantize_4bit(weight, quant_type="nf4", blocksize=BLOCK)
        self.codes: Tensor
        self.scale: Tensor
        self.values: Tensor
        self.register_buffer("codes", codes)
        self.register_buffer("scale", state.absmax.view(torch.int32))
        self.register_buffer("values", state.code.view(torch.int32))
        self.bias, self.shape = layer.bias, weight.shape

    def forward(self, inputs: Tensor) -> Tensor:
        """As the layer's own. The weight has the dtype of the inputs."""
        how = partial(widened4, shape=self.shape)
        result: Tensor = _Frozen.apply(inputs, how, self.bias, None, self.codes, self.scale, self.values)
        return result


def widened4(codes: Tensor, scale: Tensor, values: Tensor, dtype: torch.dtype, *, shape: torch.Size) -> Tensor:
    """The weight."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    largest, code = scale.view(torch.float32), values.view(torch.float32)
    state = QuantState(largest, shape, code=code, blocksize=BLOCK, quant_type="nf4", dtype=dtype)
    weight: Tensor = dequantize_4bit(codes, state)
    return weight


class _Frozen(torch.autograd.Function):
    """A layer of which the inputs alone have a gradient; between the passes it keeps what the weight is made of."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, how: Callable[..., Tensor], bias: Tensor | None, geometry: Any, *narrow: Tensor
    ) -> Tensor:
        """how: makes the weight of `narrow` and a dtype."""
        ctx.save_for_backward(*narrow)
        ctx.how, ctx.geometry, ctx.shape = how, geometry, inputs.shape
        weight = how(*narrow, inputs.dtype)
        if geometry is None:
            return F.linear(inputs, weight, bias)
        stride, padding = geometry
        return F.conv2d(inputs, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        narrow = ctx.saved_tensors
        weight = ctx.how(*narrow, grad.dtype)
        nothing = (None,) * (3 + len(narrow))
        if ctx.geometry is None:
            return grad @ weight, *nothing
        stride, padding = ctx.geometry
        found = conv2d_input(ctx.shape, weight, grad, stride, padding)  # type: ignore[no-untyped-call]
        return found, *nothing
