"""An .onnx file as plain data: its operations in order, and its constants as arrays.

The file is untrusted: whatever is wrong with it becomes a WeightsError, and the memory it can ask for is bounded. Layout:
onnx.proto in the ONNX repository, as the package `onnx` reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from condprep.errors import WeightsError

MAX_FILE = 512 << 20  # bytes; YOLOX-l has 217 MB
MAX_NODES = 20_000  # both networks have under 1,000
DOMAINS = ("", "ai.onnx")  # of operations that the standard defines
DTYPES = {"float16": np.float32, "float32": np.float32, "float64": np.float32, "int32": np.int64, "int64": np.int64}


@dataclass(frozen=True)
class Node:
    """One operation; an input that was left out is ""."""

    op: str  # as in the standard: "Conv"
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]  # numbers, lists of numbers, strings, arrays; and how many `outputs` there are


@dataclass(frozen=True)
class Graph:
    """A network with one input. Constants are float32 (weights) or int64 (shapes, indices)."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    input: str
    outputs: tuple[str, ...]


def read_graph(path: Path) -> Graph:
    """Read a model file. Raises WeightsError, naming the file, for one that is damaged or beyond the limits above."""
    size = path.stat().st_size
    if size > MAX_FILE:
        raise WeightsError(f"{path}: {size} bytes, but a network of DWPose has less than {MAX_FILE}")
    try:
        return _graph(onnx.load(path, load_external_data=False).graph)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # the parser's ways to fail on a damaged file cannot be listed
        raise WeightsError(f"{path}: not a readable .onnx model ({type(error).__name__}: {error})") from error


def _graph(graph: onnx.GraphProto) -> Graph:
    if not graph.node:
        raise WeightsError("there is no network in it")
    if len(graph.node) > MAX_NODES:
        raise WeightsError(f"{len(graph.node)} operations; at most {MAX_NODES} are allowed")
    constants = {tensor.name: _array(tensor) for tensor in graph.initializer}
    nodes = [_node(node) for node in graph.node]
    for node in nodes:
        if node.op == "Constant":
            constants[node.outputs[0]] = node.attributes["value"]
    inputs = [one.name for one in graph.input if one.name not in constants]
    if len(inputs) != 1:
        raise WeightsError(f"{len(inputs)} inputs, but a network of DWPose has one")
    running = tuple(node for node in nodes if node.op != "Constant")
    return Graph(running, constants, inputs[0], tuple(one.name for one in graph.output))


def _node(node: onnx.NodeProto) -> Node:
    if node.domain not in DOMAINS:
        raise WeightsError(f"an operation {node.op_type!r} of {node.domain!r}, which the standard does not define")
    attributes = {attribute.name: _value(attribute) for attribute in node.attribute}
    return Node(node.op_type, tuple(node.input), tuple(node.output), {"outputs": len(node.output), **attributes})


def _value(attribute: onnx.AttributeProto) -> Any:
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        raise WeightsError(f"a network inside the operation's attribute {attribute.name!r}, which is not known here")
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return _array(value)
    return list(value) if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise WeightsError(f"the weights {tensor.name!r} are in another file; one file with all weights is needed")
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
    if kind not in DTYPES:
        raise WeightsError(f"the constant {tensor.name!r} is {kind}; {', '.join(DTYPES)} are known")
    if math.prod(tensor.dims) > tensor.ByteSize():  # every value has a byte at least
        raise WeightsError(f"the constant {tensor.name!r} has fewer values than its shape {list(tensor.dims)}")
    array: np.ndarray = numpy_helper.to_array(tensor).astype(DTYPES[kind])
    return array
