"""The operations of ONNX that YOLOX and RTMPose are made of, in torch, as the standard defines them (opset 9 to 21).

Each takes the node's attributes and its inputs (None for one that was left out). Whole numbers (shapes, axes, indices)
are int64 tensors on the CPU whatever the device, so that nothing waits for a GPU to know a shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from condprep.errors import WeightsError

Attributes: TypeAlias = Mapping[str, Any]
WHOLE = (6, 7, 9)  # TensorProto's INT32, INT64, BOOL

Operation: TypeAlias = Callable[..., Tensor | Sequence[Tensor]]


def conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution in two dimensions with equal padding on opposite sides."""
    return F.conv2d(
        x, weight, bias, a.get("strides", (1, 1)), _padding(a), a.get("dilations", (1, 1)), a.get("group", 1)
    )


def max_pool(a: Attributes, x: Tensor) -> Tensor:
    """The largest value of each window."""
    if a.get("ceil_mode"):
        raise WeightsError("MaxPool with ceil_mode, which is not known here")
    dilations = a.get("dilations", (1, 1))
    return F.max_pool2d(x, a["kernel_shape"], a.get("strides", (1, 1)), _padding(a), dilations)


def _padding(a: Attributes) -> tuple[int, int]:
    top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
    if a.get("auto_pad", "NOTSET") != "NOTSET" or (top, left) != (bottom, right):
        raise WeightsError(f"padding {a.get('auto_pad', '')} {a.get('pads', '')} other than the same on opposite sides")
    return top, left


def batch_normalization(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """With the statistics of the file."""
    return F.batch_norm(x, mean, var, scale, bias, eps=a.get("epsilon", 1e-5))


def gemm(a: Attributes, x: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
    """alpha x y + beta z, either transposed on request."""
    product: Tensor = (x.mT if a.get("transA") else x) @ (y.mT if a.get("transB") else y) * a.get("alpha", 1.0)
    return product if z is None else product + a.get("beta", 1.0) * z


def clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Limits as attributes (opset 6) or as inputs."""
    lowest, highest = a.get("min", -math.inf), a.get("max", math.inf)
    x = x.clamp(lowest, highest) if low is None else x.maximum(low)
    return x if high is None else x.minimum(high)


def hard_sigmoid(a: Attributes, x: Tensor) -> Tensor:
    """A straight line between 0 and 1."""
    line: Tensor = x * a.get("alpha", 0.2) + a.get("beta", 0.5)
    return line.clamp(0, 1)


def resize(a: Attributes, x: Tensor, *rest: Tensor | None) -> Tensor:
    """Enlarging by whole numbers, each pixel becoming a square: all that YOLOX's neck does."""
    if a.get("mode", "nearest") != "nearest" or a.get("coordinate_transformation_mode") == "align_corners":
        raise WeightsError("Resize other than by the nearest pixel, which is not known here")
    factors = _factors(a, x, rest)
    if any(factor != int(factor) or factor < 1 for factor in factors):
        raise WeightsError(f"Resize by {factors}; whole numbers are known here")
    return x.repeat_interleave(int(factors[0]), 2).repeat_interleave(int(factors[1]), 3)


def _factors(a: Attributes, x: Tensor, rest: Sequence[Tensor | None]) -> list[float]:
    """Of height and width: scales alone (Upsample, Resize-10), or a region, scales and sizes (Resize-11 and later)."""
    scales, sizes = (rest[0], None) if len(rest) == 1 else (*rest[1:], None)[:2] if rest else (None, None)
    if sizes is not None and sizes.numel():
        return [size / side for size, side in zip(sizes.tolist()[2:], x.shape[2:], strict=True)]
    return list(a["scales"] if scales is None else scales.tolist())[2:]


def reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    """Another shape; 0 keeps a side. A file that was written for one picture says 1 where the number of pictures belongs."""
    sides = [x.shape[i] if side == 0 and not a.get("allowzero") else side for i, side in enumerate(shape.tolist())]
    if sides and sides[0] == 1 and len(sides) > 1:
        sides[0] = x.shape[0]
    return x.reshape(sides)


def flatten(a: Attributes, x: Tensor) -> Tensor:
    """Two axes: those before `axis`, and the others."""
    axis = a.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def cast(a: Attributes, x: Tensor) -> Tensor:
    """To whole numbers (int32, int64, bool), or to the weights' kind of numbers, which is that of every activation."""
    if a["to"] in WHOLE:
        return x.long()
    return x if x.is_floating_point() else x.float()


def transpose(a: Attributes, x: Tensor) -> Tensor:
    """The axes in another order; without one, reversed."""
    return x.permute(a.get("perm", tuple(reversed(range(x.ndim)))))


def concat(a: Attributes, *parts: Tensor) -> Tensor:
    """One after the other along an axis."""
    return torch.cat(parts, a["axis"])


def split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    """Parts of the given sizes (attribute or input), or as many equal ones as there are outputs."""
    axis = a.get("axis", 0)
    wanted = a.get("split") if sizes is None else sizes.tolist()
    return torch.split(x, wanted if wanted else x.shape[axis] // a["outputs"], axis)


def slice_(
    a: Attributes,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """A range of each axis named; by attributes up to opset 9. Steps are at least 1."""
    first = a["starts"] if starts is None else starts.tolist()
    last = a["ends"] if ends is None else ends.tolist()
    along = a.get("axes") if axes is None else axes.tolist()
    step = [1] * len(first) if steps is None else steps.tolist()
    if min(step, default=1) < 1:
        raise WeightsError("Slice backwards, which is not known here")
    index = [slice(None)] * x.ndim
    for axis, *bounds in zip(along or range(len(first)), first, last, step, strict=True):
        index[axis] = slice(*bounds)
    return x[tuple(index)]


def gather(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    """Entries along an axis, by number."""
    taken = x.index_select(a.get("axis", 0), indices.reshape(-1).to(x.device))
    axis = a.get("axis", 0) % x.ndim
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without axes of one entry."""
    along = a.get("axes") if axes is None else axes.tolist()
    return x.squeeze(tuple(along)) if along else x.squeeze()


def unsqueeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """With further axes of one entry, counted in the result."""
    along = a["axes"] if axes is None else axes.tolist()
    for axis in sorted(axis % (x.ndim + len(along)) for axis in along):
        x = x.unsqueeze(axis)
    return x


def _reduced(function: Callable[..., Tensor]) -> Operation:
    def reduce(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        along = a.get("axes") if axes is None else axes.tolist()
        return function(x, dim=tuple(along or range(x.ndim)), keepdim=bool(a.get("keepdims", 1)))

    return reduce


def _plain(function: Callable[..., Tensor]) -> Operation:
    return lambda a, *inputs: function(*inputs)


OPERATIONS: dict[str, Operation] = {
    "Add": _plain(torch.add),
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "Div": _plain(torch.div),
    "Exp": _plain(torch.exp),
    "Flatten": flatten,
    "Gather": gather,
    "Gemm": gemm,
    "GlobalAveragePool": _plain(lambda x: x.mean((2, 3), keepdim=True)),
    "HardSigmoid": hard_sigmoid,
    "Identity": _plain(lambda x: x),
    "MatMul": _plain(torch.matmul),
    "Max": _plain(torch.maximum),
    "MaxPool": max_pool,
    "Mul": _plain(torch.mul),
    "Pow": _plain(torch.pow),
    "ReduceL2": _reduced(torch.linalg.vector_norm),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "Relu": _plain(torch.relu),
    "Reshape": reshape,
    "Resize": resize,
    "Shape": _plain(lambda x: torch.tensor(x.shape)),
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": slice_,
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
    "Split": split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": squeeze,
    "Sub": _plain(torch.sub),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Upsample": resize,
}
