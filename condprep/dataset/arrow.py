"""Rows to Arrow, without pandas: for every list pyarrow's own way imports it, a fifth of a second and 50 MB of a build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # as `datasets.Image` stores pictures

NUMBERS: dict[pa.DataType, tuple[type, Any]] = {
    pa.int32(): (int, np.int32),
    pa.int64(): (int, np.int64),
    pa.float64(): (float, np.float64),
}


def record_batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """`RecordBatch.from_pylist`, for fewer than 2 GiB; encoded pictures are copied once."""
    arrays = [array([row[field.name] for row in rows], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def row_of(batch: pa.RecordBatch | pa.Table, at: int) -> dict[str, Any]:
    """A row as Python's values; those of a kind that Python has not all values of, as timestamps, stay as they are: an array."""
    kinds = dict(zip(batch.schema.names, batch.schema.types))
    return {
        name: batch.column(name)[at].as_py() if _is_pythons(kind) else _only(batch.column(name).slice(at, 1))
        for name, kind in kinds.items()
    }


def _only(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _is_pythons(kind: pa.DataType) -> bool:
    """Whether Python has every value of a kind, and gives it back as the same."""
    if pa.types.is_struct(kind):
        return all(_is_pythons(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_pythons(kind.value_type)
    return any(is_kind(kind) for is_kind in _PYTHONS)


_PYTHONS = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary),
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null),
)


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """`pa.array(values, kind)`, which is called only where the values are not all None, or plain ones of that kind.

    Values may be arrays of one, as `row_of` gives them.
    """
    count, types = len(values), set(map(type, values))
    if values and all(isinstance(value, pa.Array) for value in values):
        return pa.concat_arrays(values)
    if types == {type(None)}:
        return pa.nulls(count, kind)
    if kind == IMAGE and types == {dict} and all(value.keys() == {"bytes", "path"} for value in values):
        fields = [array([value[field.name] for value in values], field.type) for field in kind]
        return pa.StructArray.from_arrays(fields, fields=list(kind))
    if pa.types.is_list(kind) and types == {list}:
        items = array(list(chain.from_iterable(values)), kind.value_type)
        return pa.Array.from_buffers(kind, count, [None, _offsets(values)], children=[items])
    if (kind, types) == (pa.string(), {str}):
        return _array_of_bytes([value.encode() for value in values], kind)
    if (kind, types) == (pa.binary(), {bytes}):
        return _array_of_bytes(values, kind)
    if (kind, types) == (pa.bool_(), {bool}):
        return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(np.packbits(values, bitorder="little"))])
    python, numpy = NUMBERS.get(kind, (None, None))
    if types == {python}:
        return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(np.array(values, numpy))])
    return pa.array(values, kind)


def _array_of_bytes(values: Sequence[bytes], kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, _offsets(values), pa.py_buffer(b"".join(values))])


def _offsets(values: Sequence[Sequence[Any]]) -> pa.Buffer:
    """Where each value begins, and where the last one ends. Raises OverflowError from 2 GiB or that many items on."""
    return pa.py_buffer(np.array([0, *np.cumsum([len(value) for value in values], dtype=np.int64).tolist()], np.int32))
