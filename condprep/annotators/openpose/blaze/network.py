"""Runs a .tflite graph in torch: any batch size, any device, float32.

Pictures are (N, C, H, W) in channels_last memory where the file says (1, H, W, C); tensors of another rank are as in
the file. Weights are converted once, when the network is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tflite import ActivationFunctionType, Padding
from torch import Tensor, nn

from condprep.annotators.openpose.blaze.graph import MAX_ACTIVATIONS, Graph, Op, read_graph
from condprep.errors import WeightsError

LIMITS: dict[int, tuple[float, float] | None] = {  # activation -> the range it clamps to
    ActivationFunctionType.NONE: None,
    ActivationFunctionType.RELU: (0, math.inf),
    ActivationFunctionType.RELU6: (0, 6),
}


class Network(nn.Module):
    """The part of a .tflite graph that the wanted outputs need.

    `size`: side of the input picture; `outputs`: number of an output in the file -> its shape without the batch. What
    only the other outputs need, such as a segmentation head, is never computed. Raises WeightsError for a damaged file,
    an unknown operation, and shapes that differ from these and from those that the file declares.
    """

    def __init__(self, path: Path, *, size: int, outputs: Mapping[int, tuple[int, ...]]) -> None:
        super().__init__()
        graph = read_graph(path)
        try:
            _check_model(graph, size, outputs)
            self.input, self.outputs = graph.input, [graph.outputs[i] for i in outputs]
            ops = _needed(graph, self.outputs)
            self.steps = nn.ModuleList(_step(op, graph) for op in ops)
            self.wiring = [(_activations(op, graph), op.output) for op in ops]
            self.frees = _last_uses(self.wiring, self.outputs)
            self._rehearse(graph)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
        except Exception as error:  # as in read_graph: an untrusted graph can be wrong in any way
            raise WeightsError(f"{path}: not a sound network ({type(error).__name__}: {error})") from error

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) float32 -> the wanted outputs."""
        values = {self.input: x.contiguous(memory_format=torch.channels_last)}
        for step, (inputs, output), done in zip(self.steps, self.wiring, self.frees, strict=True):
            values[output] = step(*(values[i] for i in inputs))
            for i in done:
                del values[i]
        return [values[i] for i in self.outputs]

    def _rehearse(self, graph: Graph) -> None:
        """Run without memory: every activation must have its declared shape, which bounds what a real run needs."""
        if sum(math.prod(graph.shapes[output]) for _, output in self.wiring) > MAX_ACTIVATIONS:
            raise WeightsError(f"more than {MAX_ACTIVATIONS} values in the activations of one picture")
        twin = deepcopy(self).to("meta")
        for step, (_, output) in zip(twin.steps, self.wiring, strict=True):
            step.register_forward_hook(partial(_compare, declared=_chw(graph.shapes[output])))
        twin(torch.empty(_chw(graph.shapes[self.input]), device="meta"))


class Conv(nn.Module):
    """A convolution, its bias and its activation.

    weight: (O, I / groups, kh, kw); padding: rows and columns on each side, None for TensorFlow's SAME.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: tuple[int, int],
        padding: tuple[int, int] | None,
        groups: int,
        activation: int,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.stride, self.padding, self.groups, self.activation = stride, padding, groups, activation

    def forward(self, x: Tensor) -> Tensor:
        x, padding = (x, self.padding) if self.padding is not None else _pad_same(x, self.weight.shape[2:], self.stride)
        return _activate(F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups), self.activation)


class Apply(nn.Module):
    """An operation without weights."""

    def __init__(self, name: str, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)

    def extra_repr(self) -> str:
        return self.name


def _check_model(graph: Graph, size: int, outputs: Mapping[int, tuple[int, ...]]) -> None:
    found = [graph.shapes[graph.input], *(graph.shapes[i] for i in graph.outputs)]
    expected = {0: (1, size, size, 3), **{1 + number: (1, *shape) for number, shape in outputs.items()}}
    if max(expected) >= len(found) or any(found[i] != shape for i, shape in expected.items()):
        raise WeightsError(f"another model: its input and outputs have the shapes {found}")


def _compare(step: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, declared: tuple[int, ...]) -> None:
    if output.shape != declared:
        raise WeightsError(f"{step} gives {tuple(output.shape)}, but {declared} is declared")


def _needed(graph: Graph, outputs: Sequence[int]) -> list[Op]:
    wanted = set(outputs)
    ops = []
    for op in reversed(graph.ops):
        if op.output in wanted:
            wanted.update(op.inputs)
            ops.append(op)
    return ops[::-1]


def _activations(op: Op, graph: Graph) -> tuple[int, ...]:
    return tuple(i for i in op.inputs if i >= 0 and i not in graph.constants)


def _last_uses(wiring: list[tuple[tuple[int, ...], int]], outputs: Sequence[int]) -> list[list[int]]:
    last = {i: n for n, (inputs, _) in enumerate(wiring) for i in inputs if i not in outputs}
    return [[i for i, at in last.items() if at == n] for n in range(len(wiring))]


def _chw(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape


def _step(op: Op, graph: Graph) -> nn.Module:
    if op.kind not in BUILDERS:
        raise WeightsError(f"unknown operation {op.kind}; known: {', '.join(sorted(BUILDERS))}")
    return BUILDERS[op.kind](op, graph)


def _constant(op: Op, graph: Graph, which: int) -> Tensor:
    return torch.from_numpy(graph.constants[op.inputs[which]])


def _conv(op: Op, graph: Graph) -> nn.Module:
    return _any_conv(op, graph, _constant(op, graph, 1).permute(0, 3, 1, 2), groups=1)  # OHWI -> OIHW


def _depthwise(op: Op, graph: Graph) -> nn.Module:
    weight = _constant(op, graph, 1).permute(3, 0, 1, 2)  # (1, kh, kw, O) -> (O, 1, kh, kw)
    return _any_conv(op, graph, weight, groups=graph.shapes[op.inputs[0]][3])


def _any_conv(op: Op, graph: Graph, weight: Tensor, groups: int) -> nn.Module:
    options = op.options
    if (options.DilationHFactor(), options.DilationWFactor()) != (1, 1):
        raise WeightsError(f"{op.kind} with dilation, which is not known here")
    bias = _constant(op, graph, 2) if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
    return Conv(
        weight,
        bias,
        stride=(options.StrideH(), options.StrideW()),
        padding=None if options.Padding() == Padding.SAME else op.padding,
        groups=groups,
        activation=_known(options.FusedActivationFunction()),
    )


def _known(activation: int) -> int:
    if activation not in LIMITS:
        raise WeightsError(f"unknown activation {activation}")
    return activation


def _activate(x: Tensor, activation: int) -> Tensor:
    """`x`, which nobody else holds, clamped in place."""
    limits = LIMITS[activation]
    return x if limits is None else x.clamp_(*limits)


def _pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> tuple[Tensor, tuple[int, int]]:
    """TensorFlow's SAME: ceil(n / stride) outputs, an odd pixel of padding at the end; x and what is left to pad."""
    total = [max((math.ceil(n / s) - 1) * s + k - n, 0) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    top, left = (t // 2 for t in total)
    if total != [top * 2, left * 2]:
        x = F.pad(x, (left, total[1] - left, top, total[0] - top))
        top, left = 0, 0
    return x, (top, left)


def _add(op: Op, graph: Graph) -> nn.Module:
    activation = _known(op.options.FusedActivationFunction())
    return Apply("ADD", lambda a, b: _activate(a + b, activation))


def _resize(op: Op, graph: Graph) -> nn.Module:
    if op.options.AlignCorners() or not op.options.HalfPixelCenters():
        raise WeightsError("RESIZE_BILINEAR other than with half pixel centres, which is not known here")
    size = _constant(op, graph, 1).tolist()
    return Apply("RESIZE_BILINEAR", partial(F.interpolate, size=size, mode="bilinear"))


def _max_pool(op: Op, graph: Graph) -> nn.Module:
    options = op.options
    kernel, stride = (options.FilterHeight(), options.FilterWidth()), (options.StrideH(), options.StrideW())
    if options.Padding() != Padding.VALID or options.FusedActivationFunction() != ActivationFunctionType.NONE:
        raise WeightsError("MAX_POOL_2D with padding or activation, which is not known here")
    return Apply("MAX_POOL_2D", partial(F.max_pool2d, kernel_size=kernel, stride=stride))


def _depth_to_space(op: Op, graph: Graph) -> nn.Module:
    return Apply("DEPTH_TO_SPACE", partial(depth_to_space, block=op.options.BlockSize()))


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """(N, block * block * C, H, W) -> (N, C, H * block, W * block); unlike pixel_shuffle, C varies fastest."""
    n, channels, height, width = x.shape
    x = x.view(n, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    x = x.reshape(n, channels // block**2, height * block, width * block)
    return x.contiguous(memory_format=torch.channels_last)


def _reshape(op: Op, graph: Graph) -> nn.Module:
    shape = graph.shapes[op.output][1:]  # the batch stays free
    if len(shape) == 3 or len(graph.shapes[op.inputs[0]]) != 4:
        raise WeightsError("RESHAPE other than from four dimensions to fewer, which is not known here")
    return Apply("RESHAPE", lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], *shape))


def _concat(op: Op, graph: Graph) -> nn.Module:
    rank = len(graph.shapes[op.output])
    axis = op.options.Axis() % rank
    return Apply("CONCATENATION", lambda *parts: torch.cat(parts, dim=[0, 2, 3, 1][axis] if rank == 4 else axis))


def _logistic(op: Op, graph: Graph) -> nn.Module:
    return Apply("LOGISTIC", torch.sigmoid)


BUILDERS: dict[str, Callable[[Op, Graph], nn.Module]] = {
    "ADD": _add,
    "CONCATENATION": _concat,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEPTH_TO_SPACE": _depth_to_space,
    "LOGISTIC": _logistic,
    "MAX_POOL_2D": _max_pool,
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize,
}
