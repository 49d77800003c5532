"""Thrift's compact protocol, of which Parquet's headers are made: bytes to dicts of fields by number.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import mmap
from typing import Any

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12
_DEEPEST = 12  # structs in each other: Parquet has six


def read_struct(data: mmap.mmap | bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct -> its fields by number, and where it ends; strings are left out. Raises IndexError or KeyError."""
    if depth > _DEEPEST or at < 0:
        raise IndexError("too deep")
    fields: dict[int, Any] = {}
    number = 0
    while (byte := data[at]) != 0:
        at, step = at + 1, byte >> 4
        if step:
            number += step
        else:
            number, at = _zigzag(data, at)
        kind = byte & 15
        fields[number], at = (kind == _TRUE, at) if kind in (_TRUE, _FALSE) else _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: mmap.mmap | bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE, _BYTE):  # of a list, where a boolean is a byte
        return data[at], at + 1
    if kind in (_I16, _I32, _I64):
        return _zigzag(data, at)
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BINARY:
        length, at = _varint(data, at)
        return None, at + length
    if kind in (_LIST, _SET):
        return _list(data, at, depth)
    if kind == _STRUCT:
        return read_struct(data, at, depth + 1)
    raise KeyError(kind)  # maps, which Parquet does not have


def _list(data: mmap.mmap | bytes, at: int, depth: int) -> tuple[list[Any], int]:
    size, kind, at = data[at] >> 4, data[at] & 15, at + 1
    if size == 15:
        size, at = _varint(data, at)
    found = []
    for _ in range(size):
        value, at = _value(data, at, kind, depth + 1)
        found.append(value)
        if at > len(data):
            raise IndexError("a list beyond the end")
    return found, at


def _zigzag(data: mmap.mmap | bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: mmap.mmap | bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at + shift // 7]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at + shift // 7 + 1
    raise IndexError("a number of more than ten bytes")
