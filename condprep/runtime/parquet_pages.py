"""Parquet that nobody vouches for: how much memory its rows take is known before they are unpacked.

A page of a few bytes can stand for gigabytes: compressed, or as one long value in a dictionary that every row names, or as
prefixes of the value before. The footer may say what it likes, so the headers of the pages are read, which Parquet's own
reader goes by: https://parquet.apache.org/docs/file-format/data-pages/, in Thrift's compact protocol.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BUDGET = 128 << 20  # bytes of a page, and of the rows that are in memory at once
RATIO = 16  # larger pages are believed where they are no more times larger than their packed bytes: pictures are not
WHOLE = 1 << 30  # of a row group, where it is not ours to read fewer rows
MOST_ROWS = 1000
ROWS_A_BYTE, MANY_ROWS = 1000, 10_000_000  # more of them in a file than that are no data
BYTES = "BYTE_ARRAY"
AMPLIFYING = {"DELTA_BYTE_ARRAY"}  # a value may repeat the one before it
_BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 3, 4, 5, 6, 7, 8, 12  # Thrift's types; 1, 2 are booleans
_UNPACKED, _PACKED, _DATA, _DICTIONARY, _DATA_2 = 2, 3, 5, 7, 8  # fields of a PageHeader
_VALUES = 1  # of a data page's own header
_DEEPEST = 8  # structs in each other: a page header has two


class TooLarge(pa.ArrowInvalid):  # type: ignore[misc]
    """What a file would take in memory is out of proportion."""


@dataclass(frozen=True)
class Chunk:
    """The pages of a column in a row group."""

    column: str  # its path, "text.list.element"
    repeated: bool  # a row may have any number of its values
    strings: bool
    amplifying: bool
    values: int
    packed: int  # bytes
    longest: int  # bytes of the largest page whose values may be repeated: no value is longer


def most_rows(path: Path, columns: Sequence[str] | None, most: int) -> int:
    """How many rows of these columns may be read at once, at most `most`. None: of all columns.

    Raises TooLarge, which is an ArrowInvalid, for a file whose rows are out of proportion.
    """
    chunks = _chunks_of(path, columns)
    for one in chunks:
        if one.repeated and _suspicious(one, BUDGET):
            _refuse(one, _strings(path, one)[0], "a list in")
    return max(1, min(most, BUDGET // max([1, *(one.longest for one in chunks)])))


def check_whole(path: Path) -> None:
    """The same for somebody else who reads row groups as a whole: Hugging Face's `datasets`."""
    for one in _chunks_of(path, None):
        if _suspicious(one, WHOLE):
            _refuse(one, _strings(path, one)[1], "a row group of")


def read_rows(path: Path, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> pa.Table:
    """A table of these columns and row groups. Raises TooLarge where it is out of proportion."""
    found: list[pa.RecordBatch] = []
    most = max(BUDGET, RATIO * path.stat().st_size)
    with pq.ParquetFile(path, memory_map=True) as file:
        at_once = most_rows(path, columns, MOST_ROWS)
        for batch in file.iter_batches(at_once, row_groups=groups, columns=columns and list(columns)):
            found.append(batch)
            if (size := sum(one.nbytes for one in found)) > most:
                raise TooLarge(f"its rows take more than {size:,} bytes in memory")
        schema = file.schema_arrow if columns is None else None
    return pa.Table.from_batches(found, None if found else schema)


def _suspicious(chunk: Chunk, most: int) -> bool:
    """Whether its values may take more, by what is known without unpacking it."""
    worst = chunk.values * (chunk.longest if chunk.strings else 8)
    return worst > most and worst > RATIO * chunk.packed


def _refuse(chunk: Chunk, found: int, what: str) -> None:
    if found > BUDGET and found > RATIO * chunk.packed:
        raise TooLarge(f"{what} column {chunk.column!r} takes {found:,} bytes in memory, and {chunk.packed:,} here")


def _strings(path: Path, chunk: Chunk) -> tuple[int, int]:
    """Bytes of the longest row and of all rows of a column, found without spelling out what its values repeat."""
    if not chunk.strings or chunk.amplifying:
        return (chunk.values * max(8, chunk.longest),) * 2
    longest = total = 0
    with pq.ParquetFile(path, memory_map=True, read_dictionary=[chunk.column]) as file:
        for batch in file.iter_batches(MOST_ROWS, columns=[chunk.column]):
            column = batch.column(0)
            plain = pa.types.is_list(column.type) and pa.types.is_dictionary(column.type.value_type)
            rows = column.value_lengths().fill_null(0).to_numpy() if plain else np.ones(len(batch), np.int64)
            values = _leaf(column)
            lengths = pc.binary_length(values.dictionary).take(values.indices)
            ends = np.cumsum(lengths.fill_null(0).to_numpy(), dtype=np.int64)
            before, last = np.concatenate([[0], ends]), np.cumsum(rows)
            total += int(before[-1])
            longest = max(longest, int((before[last] - before[last - rows]).max()) if plain else int(before[-1]))
    return longest, total


def _leaf(values: pa.Array) -> pa.DictionaryArray:
    """The column that is read as a dictionary, out of the lists and structs around it."""
    while not pa.types.is_dictionary(values.type):
        if pa.types.is_struct(values.type):
            fields = [values.field(n) for n in range(values.type.num_fields)]
            values = next(one for one in fields if "dictionary<" in str(one.type))
        else:
            values = values.flatten()
    return values


def _chunks_of(path: Path, columns: Sequence[str] | None) -> list[Chunk]:
    status = path.stat()
    chunks = _chunks(path, status.st_size, status.st_mtime_ns)
    return [one for one in chunks if columns is None or one.column.partition(".")[0] in columns]


@lru_cache(64)
def _chunks(path: Path, size: int, changed: int) -> tuple[Chunk, ...]:
    """Every column of every row group; size, changed: of the file, so that none that took its place is taken for it."""
    with pq.ParquetFile(path, memory_map=True) as file:
        metadata, schema = file.metadata, file.schema
    if metadata.num_rows > MANY_ROWS and metadata.num_rows > ROWS_A_BYTE * size:
        raise TooLarge(f"it claims {metadata.num_rows:,} rows in {size:,} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return tuple(
            _chunk(data, metadata.row_group(group).column(number), schema.column(number))
            for group in range(metadata.num_row_groups)
            for number in range(metadata.num_columns)
        )


def _chunk(data: mmap.mmap, column: Any, kind: Any) -> Chunk:
    values = longest = packed = 0
    amplifying = bool(AMPLIFYING.intersection(column.encodings))
    for header in _pages(data, column):
        unpacked, taken = header[_UNPACKED], header[_PACKED]
        if unpacked > BUDGET and unpacked > RATIO * taken:
            raise TooLarge(f"{taken:,} bytes of column {kind.path!r} would become {unpacked:,} in memory")
        values += (header.get(_DATA) or header.get(_DATA_2) or {}).get(_VALUES, 0)
        packed += taken
        if amplifying or header.get(_DICTIONARY):
            longest = max(longest, unpacked)
    repeated, strings = kind.max_repetition_level > 0, kind.physical_type == BYTES
    return Chunk(kind.path, repeated, strings, amplifying, values, packed, longest)


def _pages(data: mmap.mmap, column: Any) -> Iterator[dict[int, Any]]:
    """The header of every page, as Parquet's own reader meets them."""
    first = column.data_page_offset
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < first:
        first = column.dictionary_page_offset
    at, end = first, min(len(data), first + column.total_compressed_size)
    if at < 0:
        raise pa.ArrowInvalid(f"column {column.path_in_schema!r} begins at byte {at}")
    while at < end:
        try:
            header, at = _struct(data, at)
            at += header[_PACKED]
        except (IndexError, KeyError, TypeError):
            raise pa.ArrowInvalid(f"a page of column {column.path_in_schema!r} has no header") from None
        if min(header.get(_UNPACKED, -1), header[_PACKED]) < 0:
            raise pa.ArrowInvalid(f"a page of column {column.path_in_schema!r} has no size")
        yield header


def _struct(data: mmap.mmap, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol -> its fields by number, and where it ends."""
    if depth > _DEEPEST:
        raise IndexError("too deep")
    fields: dict[int, Any] = {}
    number = 0
    while (byte := data[at]) != 0:
        at, step = at + 1, byte >> 4
        if step:
            number += step
        else:
            number, at = _zigzag(data, at)
        fields[number], at = _value(data, at, byte & 15, depth)
    return fields, at + 1


def _value(data: mmap.mmap, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == _BYTE:
        return data[at], at + 1
    if kind in (_I16, _I32, _I64):
        return _zigzag(data, at)
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BINARY:
        length, at = _varint(data, at)
        return None, at + length
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    raise KeyError(kind)  # lists, sets and maps, which no page header has


def _zigzag(data: mmap.mmap, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at + shift // 7]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at + shift // 7 + 1
    raise IndexError("a number of more than ten bytes")
