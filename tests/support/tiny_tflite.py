"""Writes small .tflite models, so that tests can state operations and damage without a real model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import tflite

OPTIONS = {
    "ADD": "AddOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "RESHAPE": "ReshapeOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
}


class Tiny:
    """A model in the making. Tensor 0 is the input; methods return the number of the tensor they add."""

    def __init__(self, *input_shape: int) -> None:
        self.builder = flatbuffers.Builder(1 << 16)
        self.buffers = [self.table("Buffer")]  # the first is empty by the schema's rule
        self.tensors: list[int] = []
        self.codes: list[int] = []
        self.operators: list[int] = []
        self._tensor(input_shape, tflite.TensorType.FLOAT32, 0)

    def constant(self, values: np.ndarray) -> int:
        """float32, float16 or int32 values."""
        kind = {"f4": "FLOAT32", "f2": "FLOAT16", "i4": "INT32"}[values.dtype.str[1:]]
        return self._tensor(values.shape, getattr(tflite.TensorType, kind), self._buffer(values))

    def sparse(self, values: np.ndarray, *, shift: int = 0) -> int:
        """The same with the last dimension compressed; `shift` moves every index by so much, to make it wrong."""
        rows = values.reshape(-1, values.shape[-1])
        segments = np.concatenate([[0], (rows != 0).sum(1).cumsum()])
        dense = [
            self.table("DimensionMetadata", Format=tflite.DimensionType.DENSE, DenseSize=n) for n in values.shape[:-1]
        ]
        compressed = self.table(
            "DimensionMetadata",
            Format=tflite.DimensionType.SPARSE_CSR,
            ArraySegmentsType=tflite.SparseIndexVector.Int32Vector,
            ArraySegments=self.table("Int32Vector", Values=self._numbers(segments, np.int32)),
            ArrayIndicesType=tflite.SparseIndexVector.Uint8Vector,
            ArrayIndices=self.table("Uint8Vector", Values=self._numbers(rows.nonzero()[1] + shift, np.uint8)),
        )
        sparsity = self.table(
            "SparsityParameters",
            TraversalOrder=self._numbers(range(values.ndim), np.int32),
            DimMetadata=self._offsets([*dense, compressed]),
        )
        kind = getattr(tflite.TensorType, {2: "FLOAT16", 4: "FLOAT32"}[values.itemsize])
        return self._tensor(values.shape, kind, self._buffer(rows[rows != 0]), Sparsity=sparsity)

    def op(self, kind: str, inputs: Sequence[int], shape: Sequence[int], **options: Any) -> int:
        """An operation and the tensor that it makes; options by their names in the schema (StrideH=2)."""
        output = self._tensor(shape, tflite.TensorType.FLOAT32, 0)
        code = getattr(tflite.BuiltinOperator, kind)
        self.codes.append(self.table("OperatorCode", BuiltinCode=code, DeprecatedBuiltinCode=min(code, 127)))
        fields = {
            "OpcodeIndex": len(self.codes) - 1,
            "Inputs": self._numbers(inputs, np.int32),
            "Outputs": self._numbers([output], np.int32),
        }
        if kind in OPTIONS:
            fields["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, OPTIONS[kind])
            fields["BuiltinOptions"] = self.table(OPTIONS[kind], **options)
        self.operators.append(self.table("Operator", **fields))
        return output

    def save(self, path: Path, *outputs: int) -> Path:
        """Write the file; `outputs` are the model's."""
        graph = self.table(
            "SubGraph",
            Tensors=self._offsets(self.tensors),
            Inputs=self._numbers([0], np.int32),
            Outputs=self._numbers(outputs, np.int32),
            Operators=self._offsets(self.operators),
        )
        model = self.table(
            "Model",
            Version=3,
            OperatorCodes=self._offsets(self.codes),
            Subgraphs=self._offsets([graph]),
            Buffers=self._offsets(self.buffers),
        )
        self.builder.Finish(model, file_identifier=b"TFL3")
        path.write_bytes(self.builder.Output())
        return path

    def table(self, name: str, **fields: Any) -> int:
        getattr(tflite, f"{name}Start")(self.builder)
        for field, value in fields.items():
            getattr(tflite, f"{name}Add{field}")(self.builder, value)
        offset: int = getattr(tflite, f"{name}End")(self.builder)
        return offset

    def _tensor(self, shape: Sequence[int], kind: int, buffer: int, **fields: int) -> int:
        numbers = self._numbers(shape, np.int32)
        self.tensors.append(self.table("Tensor", Shape=numbers, Type=kind, Buffer=buffer, **fields))
        return len(self.tensors) - 1

    def _buffer(self, values: np.ndarray) -> int:
        data = self._numbers(np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8), np.uint8)
        self.buffers.append(self.table("Buffer", Data=data))
        return len(self.buffers) - 1

    def _numbers(self, values: Any, dtype: Any) -> int:
        return int(self.builder.CreateNumpyVector(np.array(values, dtype)))

    def _offsets(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())
