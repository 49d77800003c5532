"""A .tflite file as plain data: its operations in order, its constants as float arrays, its shapes.

The file is untrusted: whatever is wrong with it becomes a WeightsError, and the memory it can ask for is bounded.
Layout: tensorflow/lite/schema/schema.fbs in the TensorFlow repository, as the package `tflite` reads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tflite

from condprep.errors import WeightsError

MAX_FILE = 64 << 20  # bytes; the largest BlazePose file has 27 MB
MAX_PARTS = 10_000  # tensors, and operations; the BlazePose models have under 700
MAX_CONSTANTS = 64 << 20  # values in all constants together, so that a small sparse file cannot fill the memory
MAX_TENSOR = 16 << 20  # values in one tensor of one picture; the BlazePose models need 1 M
MAX_ACTIVATIONS = 64 << 20  # values in all that the operations make of one picture; the BlazePose models need 9 M
DTYPES: dict[int, np.dtype[Any]] = {
    tflite.TensorType.FLOAT32: np.dtype("<f4"),
    tflite.TensorType.FLOAT16: np.dtype("<f2"),
    tflite.TensorType.INT32: np.dtype("<i4"),
}
KINDS = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
OPTIONS = {code: name for name, code in vars(tflite.BuiltinOptions).items() if isinstance(code, int)}


@dataclass(frozen=True)
class Op:
    """One operation. `inputs` and `output` number tensors of the graph, -1 is an input that was left out."""

    kind: str  # as in the schema: "CONV_2D"
    inputs: tuple[int, ...]
    output: int
    options: Any  # the schema's options table of this kind, or None
    padding: tuple[int, int] = (0, 0)  # rows and columns of zeros on each side of the input, by a PAD folded into it


@dataclass(frozen=True)
class Graph:
    """A network with one input. Shapes are as in the file, (1, H, W, C) for pictures."""

    ops: tuple[Op, ...]
    shapes: tuple[tuple[int, ...], ...]  # of every tensor
    constants: dict[int, np.ndarray]  # tensor -> float32 or int32 array of that shape, sparse ones made dense
    input: int
    outputs: tuple[int, ...]


def read_graph(path: Path) -> Graph:
    """Read a model file. Raises WeightsError, naming the file, for one that is damaged or beyond the limits above."""
    size = path.stat().st_size
    if size > MAX_FILE:
        raise WeightsError(f"{path}: {size} bytes, but a BlazePose model has less than {MAX_FILE}")
    try:
        return _graph(path.read_bytes())
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # the parser's ways to fail on a damaged file cannot be listed
        raise WeightsError(f"{path}: not a readable .tflite model ({type(error).__name__}: {error})") from error


def _graph(data: bytes) -> Graph:
    if not tflite.Model.ModelBufferHasIdentifier(data, 0):
        raise WeightsError("not a .tflite model (no TFL3 mark)")
    model = tflite.Model.GetRootAs(data, 0)
    net = model.Subgraphs(0)
    if max(net.TensorsLength(), net.OperatorsLength()) > MAX_PARTS:
        raise WeightsError(f"more than {MAX_PARTS} tensors or operations")
    shapes = tuple(_shape(net.Tensors(i)) for i in range(net.TensorsLength()))
    constants = _constants(model, net, shapes)
    ops = []
    for op in (_op(model, net.Operators(i), len(shapes)) for i in range(net.OperatorsLength())):
        if op.kind in ("DENSIFY", "DEQUANTIZE") and op.inputs[0] in constants:
            constants[op.output] = constants[op.inputs[0]]  # done when the constant was read
        else:
            ops.append(op)
    (start,) = net.InputsAsNumpy()
    return Graph(
        tuple(_fold_padding(ops, constants)), shapes, constants, int(start), tuple(int(i) for i in net.OutputsAsNumpy())
    )


def _shape(tensor: Any) -> tuple[int, ...]:
    shape = tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))
    if min(shape, default=0) < 0 or math.prod(shape) > MAX_TENSOR:
        raise WeightsError(f"a tensor of shape {shape}; at most {MAX_TENSOR} values are allowed")
    return shape


def _op(model: Any, op: Any, tensors: int) -> Op:
    code = model.OperatorCodes(op.OpcodeIndex())
    # files written before the schema had 127 operations keep the code in the deprecated field
    kind = KINDS.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "unknown")
    inputs = tuple(int(op.Inputs(i)) for i in range(op.InputsLength()))
    output = int(op.Outputs(0))
    if op.OutputsLength() != 1 or not all(-1 <= i < tensors for i in (*inputs, output)):
        raise WeightsError(f"{kind} refers to tensors that do not exist")
    return Op(kind, inputs, output, _options(op))


def _fold_padding(ops: list[Op], constants: dict[int, np.ndarray]) -> list[Op]:
    """PAD before a convolution without padding becomes that convolution's padding, which costs no copy."""
    pads = {op.output: op for op in ops if op.kind == "PAD"}
    return [
        _padded(op, pads[op.inputs[0]], constants) if op.inputs[0] in pads else op for op in ops if op.kind != "PAD"
    ]


def _padded(op: Op, pad: Op, constants: dict[int, np.ndarray]) -> Op:
    none, (top, bottom), (left, right), channels = constants[pad.inputs[1]].tolist()
    plain = op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and op.options.Padding() == tflite.Padding.VALID
    if not plain or [*none, *channels] != [0] * 4 or (top, left) != (bottom, right) or min(top, left) < 0:
        raise WeightsError(f"a PAD other than the same all around a convolution, before {op.kind}; not known here")
    return replace(op, inputs=(pad.inputs[0], *op.inputs[1:]), padding=(top, left))


def _options(op: Any) -> Any:
    table, name = op.BuiltinOptions(), OPTIONS.get(op.BuiltinOptionsType(), "NONE")
    if table is None or name == "NONE":
        return None
    options = getattr(tflite, name)()
    options.Init(table.Bytes, table.Pos)
    return options


def _constants(model: Any, net: Any, shapes: tuple[tuple[int, ...], ...]) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    left = MAX_CONSTANTS
    for i, shape in enumerate(shapes):
        tensor = net.Tensors(i)
        buffer = model.Buffers(tensor.Buffer())
        if buffer.DataLength() == 0:
            continue  # an activation
        left -= math.prod(shape)
        if left < 0:
            raise WeightsError(f"more than {MAX_CONSTANTS} weights")
        found[i] = _constant(tensor, buffer, shape)
    return found


def _constant(tensor: Any, buffer: Any, shape: tuple[int, ...]) -> np.ndarray:
    dtype = DTYPES.get(tensor.Type())
    if dtype is None:
        raise WeightsError(
            f"constant {tensor.Name()!r} has the type {tensor.Type()}; float32, float16, int32 are known"
        )
    values = buffer.DataAsNumpy().view(dtype)
    if tensor.Sparsity() is not None:
        values = densify(values, tensor.Sparsity(), shape)
    dense: np.ndarray = values.reshape(shape).astype(np.int32 if dtype == np.int32 else np.float32)
    return dense


def densify(values: np.ndarray, sparsity: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The dense tensor of a sparse one whose last dimension alone is compressed (rows of a CSR matrix).

    Raises WeightsError for another layout and for indices outside the shape.
    """
    dims = [sparsity.DimMetadata(i) for i in range(sparsity.DimMetadataLength())]
    compressed = [dim.Format() == tflite.DimensionType.SPARSE_CSR for dim in dims]
    order = [sparsity.TraversalOrder(i) for i in range(sparsity.TraversalOrderLength())]
    if order != list(range(len(shape))) or compressed != [False] * (len(shape) - 1) + [True]:
        raise WeightsError("a sparse tensor of a layout other than rows of a CSR matrix")
    segments = _indices(dims[-1].ArraySegmentsType(), dims[-1].ArraySegments())
    columns = _indices(dims[-1].ArrayIndicesType(), dims[-1].ArrayIndices())
    rows, width = math.prod(shape[:-1]), shape[-1]
    counts = np.diff(segments)
    sound = len(counts) == rows and segments[0] == 0 and counts.min() >= 0 and segments[-1] == len(columns)
    if not sound or len(columns) != len(values) or (columns.size and not 0 <= columns.min() <= columns.max() < width):
        raise WeightsError("a sparse tensor whose indices do not fit its shape")
    dense = np.zeros((rows, width), values.dtype)
    dense[np.repeat(np.arange(rows), counts), columns] = values
    return dense


def _indices(kind: int, table: Any) -> np.ndarray:
    vectors = tflite.SparseIndexVector
    types = {
        vectors.Int32Vector: tflite.Int32Vector,
        vectors.Uint16Vector: tflite.Uint16Vector,
        vectors.Uint8Vector: tflite.Uint8Vector,
    }
    vector = types[kind]()
    vector.Init(table.Bytes, table.Pos)
    array: np.ndarray = vector.ValuesAsNumpy()
    return array.astype(np.int64)
