"""Parquet that nobody vouches for: how much memory its rows take is known before they are unpacked.

A page of a few bytes can stand for gigabytes: compressed, or as one long value in a dictionary that every row names, or as
prefixes of the value before. The footer may say what it likes, so the headers of the pages are read, which Parquet's own
reader goes by: https://parquet.apache.org/docs/file-format/data-pages/, in Thrift's compact protocol.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from condprep.runtime.thrift import read_struct

BUDGET = 128 << 20  # bytes of a page, and of the rows that are in memory at once
RATIO = 16  # larger pages are believed where they are no more times larger than their packed bytes: pictures are not
WHOLE = 1 << 30  # of a row group, where it is not ours to read fewer rows
MOST_ROWS = 1000
ROWS_A_BYTE, MANY_ROWS = 1000, 10_000_000  # more of them in a file than that are no data
BYTES = "BYTE_ARRAY"
MAX_FOOTER = 1 << 26  # bytes of metadata
# fields of a file's metadata, of a row group, of a column and its metadata
_ROWS, _GROUPS, _COLUMNS, _META, _GROUP_ROWS, _SPREAD = 3, 4, 1, 3, 3, 6
_ENCODINGS, _COUNT, _TAKEN, _FIRST_PAGE, _FIRST_DICTIONARY = 2, 5, 7, 9, 11
_DELTA_BYTES = 7  # an encoding in which a value may repeat the one before it
_UNPACKED, _PACKED, _DATA, _DICTIONARY, _DATA_2 = 2, 3, 5, 7, 8  # fields of a PageHeader
_VALUES = 1  # of a data page's own header


Table = Path | bytes  # a file, or all that one holds


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
    damage: str = ""  # why its pages cannot be read


@dataclass(frozen=True)
class Group:
    """A row group."""

    rows: int
    size: int  # bytes that its columns claim to have when they are unpacked
    columns: tuple[tuple[str, int, int], ...]  # the name of each, and where its bytes begin and end


def sound_rows(table: Table, columns: Sequence[str], most: int) -> Iterator[pa.RecordBatch]:
    """The rows of a table, at most `most` at once; the iterator raises ArrowInvalid after those that lie before any damage.

    Raises TooLarge itself, and ArrowInvalid where nothing can be read.
    """
    groups = _groups(table, columns)
    damages = [next((one.damage for one in chunks if one.damage), "") for chunks in groups]
    sound = next((number for number, damage in enumerate(damages) if damage), len(damages))
    at_once = _most_rows(table, chain.from_iterable(groups[:sound]), most)

    def read() -> Iterator[pa.RecordBatch]:
        with _opened(table) as file:
            yield from file.iter_batches(at_once, row_groups=range(sound), columns=list(columns))
        if sound < len(damages):
            raise pa.ArrowInvalid(damages[sound])

    return read()


def rows_of_group(path: Path, columns: Sequence[str], group: int, most: int) -> Iterator[pa.RecordBatch]:
    """The rows of a row group, at most `most` at once, of a file in which no other one need be. Raises ArrowInvalid."""
    chunks = [one for one in _chunks_of(path, group) if one.column.partition(".")[0] in columns]
    at_once = _most_rows(path, chunks, most)
    with pq.ParquetFile(path, memory_map=True) as file:
        yield from file.iter_batches(at_once, row_groups=[group], columns=list(columns))


def layout(path: Path) -> list[Group]:
    """Where the row groups of a file lie, by its footer alone. Raises ArrowInvalid."""
    with pq.ParquetFile(path, memory_map=True) as file:  # raises for what is no Parquet
        names = [file.schema.column(number).path.partition(".")[0] for number in range(len(file.schema.names))]
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            footer = _sound_footer(data)
            return [_group(group, names, len(data)) for group in footer.get(_GROUPS, [])]
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise pa.ArrowInvalid(f"its metadata is damaged: {type(error).__name__} {error}") from None


def _group(group: dict[int, Any], names: Sequence[str], size: int) -> Group:
    metas = [column[_META] for column in group[_COLUMNS]]
    ranges = tuple((name, _first(meta), min(size, _first(meta) + meta[_TAKEN])) for name, meta in zip(names, metas))
    rows = group[_GROUP_ROWS]
    if rows < 0 or any(not 0 <= start <= end for _, start, end in ranges):
        raise KeyError("a row group of less than nothing")
    return Group(rows, sum(max(0, meta[_SPREAD]) for meta in metas), ranges)


def _opened(table: Table, **how: Any) -> pq.ParquetFile:
    """Raises ArrowInvalid for what is no Parquet."""
    return pq.ParquetFile(pa.BufferReader(table) if isinstance(table, bytes) else table, memory_map=True, **how)


def _most_rows(table: Table, chunks: Iterable[Chunk], most: int) -> int:
    """How many rows of these may be read at once, at most `most`."""
    longest = 1
    for one in chunks:
        _refuse_damage(one)
        if one.repeated and _suspicious(one, BUDGET):
            _refuse(one, _strings(table, one)[0], "a list in")
        longest = max(longest, one.longest)
    return max(1, min(most, BUDGET // longest))


def check_whole(path: Path) -> None:
    """The same for somebody else who reads row groups as a whole: Hugging Face's `datasets`."""
    for one in chain.from_iterable(_groups(path, None)):
        _refuse_damage(one)
        if _suspicious(one, WHOLE):
            _refuse(one, _strings(path, one)[1], "a row group of")
    check_total(path)


def check_total(table: Table, columns: Sequence[str] | None = None) -> None:
    """Raises TooLarge where a column would take out of proportion much altogether: time and disk, if not memory."""
    for chunks in zip(*_groups(table, columns)):
        worst, packed = sum(map(_worst, chunks)), sum(one.packed for one in chunks)
        if worst > WHOLE and worst > RATIO * packed:
            total = worst if any(one.amplifying for one in chunks) else _strings(table, chunks[0])[1]
            if total > WHOLE:
                _refuse(replace(chunks[0], packed=packed), total, "all of")


def read_rows(path: Path, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> pa.Table:
    """A table of these columns and row groups. Raises TooLarge where it is out of proportion."""
    found: list[pa.RecordBatch] = []
    most = max(BUDGET, RATIO * path.stat().st_size)
    with pq.ParquetFile(path, memory_map=True) as file:
        of_groups = _groups(path, columns)
        wanted = of_groups if groups is None else [of_groups[group] for group in groups]
        at_once = _most_rows(path, chain.from_iterable(wanted), MOST_ROWS)
        for batch in file.iter_batches(at_once, row_groups=groups, columns=columns and list(columns)):
            found.append(batch)
            if (size := sum(one.nbytes for one in found)) > most:
                raise TooLarge(f"its rows take more than {size:,} bytes in memory")
        schema = file.schema_arrow if columns is None else None
    return pa.Table.from_batches(found, None if found else schema)


def _refuse_damage(chunk: Chunk) -> None:
    if chunk.damage:
        raise pa.ArrowInvalid(chunk.damage)


def _suspicious(chunk: Chunk, most: int) -> bool:
    """Whether its values may take more, by what is known without unpacking it."""
    worst = _worst(chunk)
    return worst > most and worst > RATIO * chunk.packed


def _worst(chunk: Chunk) -> int:
    """Bytes that its values may take."""
    return chunk.values * (chunk.longest if chunk.strings else 8)


def _refuse(chunk: Chunk, found: int, what: str) -> None:
    if found > BUDGET and found > RATIO * chunk.packed:
        raise TooLarge(f"{what} column {chunk.column!r} takes {found:,} bytes in memory, and {chunk.packed:,} here")


def _strings(table: Table, chunk: Chunk) -> tuple[int, int]:
    """Bytes of the longest row and of all rows of a column, found without spelling out what its values repeat."""
    if not chunk.strings or chunk.amplifying:
        return (chunk.values * max(8, chunk.longest),) * 2
    import pyarrow.compute as pc  # an eighth of the time in which a build starts, which needs it for foreign tables alone

    longest = total = 0
    with _opened(table, read_dictionary=[chunk.column]) as file:
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


def _groups(table: Table, columns: Sequence[str] | None) -> list[list[Chunk]]:
    """These columns of each row group; "image.path" is the one inside the other."""
    if isinstance(table, bytes):
        found = _chunks(table, _kinds(table))
    else:
        status = table.stat()
        found = _chunks_of_file(table, status.st_size, status.st_mtime_ns)
    return [[one for one in chunks if columns is None or _is_of(one, columns)] for chunks in found]


def _is_of(chunk: Chunk, columns: Sequence[str]) -> bool:
    return chunk.column in columns or chunk.column.partition(".")[0] in columns


def _kinds(table: Table) -> list[Any]:
    """What each column holds."""
    with _opened(table) as file:
        return [file.schema.column(number) for number in range(len(file.schema.names))]


def _chunks_of(path: Path, group: int) -> list[Chunk]:
    """Every column of one row group."""
    kinds = _kinds(path)
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            columns = _sound_footer(data)[_GROUPS][group][_COLUMNS]
            return [_chunk(data, column[_META], kind) for column, kind in zip(columns, kinds)]
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise pa.ArrowInvalid(f"its metadata is damaged: {type(error).__name__} {error}") from None


@lru_cache(64)
def _chunks_of_file(path: Path, size: int, changed: int) -> tuple[tuple[Chunk, ...], ...]:
    """size, changed: of the file, so that none that took its place is taken for it."""
    kinds = _kinds(path)
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _chunks(data, kinds)


def _chunks(data: mmap.mmap | bytes, kinds: Sequence[Any]) -> tuple[tuple[Chunk, ...], ...]:
    """Every column of every row group."""
    try:
        footer = _sound_footer(data)
        return tuple(
            tuple(_chunk(data, column[_META], kind) for column, kind in zip(group[_COLUMNS], kinds))
            for group in footer.get(_GROUPS, [])
        )
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise pa.ArrowInvalid(f"its metadata is damaged: {type(error).__name__} {error}") from None


def _sound_footer(data: mmap.mmap | bytes) -> dict[int, Any]:
    """The same, where the rows are in proportion. Raises TooLarge."""
    footer = _footer(data)
    if footer[_ROWS] > MANY_ROWS and footer[_ROWS] > ROWS_A_BYTE * len(data):
        raise TooLarge(f"it claims {footer[_ROWS]:,} rows in {len(data):,} bytes")
    return footer


def _footer(data: mmap.mmap | bytes) -> dict[int, Any]:
    """What stands at the end of the file. Not by pyarrow's metadata, which some damage makes end the process."""
    length = int.from_bytes(data[-8:-4], "little")
    if length > MAX_FOOTER:
        raise TooLarge(f"it has {length:,} bytes of metadata, more than {MAX_FOOTER:,}")
    return read_struct(data, len(data) - 8 - length)[0]


def _chunk(data: mmap.mmap | bytes, column: dict[int, Any], kind: Any) -> Chunk:
    values = longest = packed = 0
    amplifying = _DELTA_BYTES in column.get(_ENCODINGS, ())
    repeated, strings = kind.max_repetition_level > 0, kind.physical_type == BYTES
    try:
        headers = list(_pages(data, column))
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        damage = f"a page of column {kind.path!r} is damaged: {type(error).__name__} {error}"
        return Chunk(kind.path, repeated, strings, amplifying, 0, 0, 0, damage)
    for header in headers:
        unpacked, taken = header[_UNPACKED], header[_PACKED]
        if unpacked > BUDGET and unpacked > RATIO * taken:
            raise TooLarge(f"{taken:,} bytes of column {kind.path!r} would become {unpacked:,} in memory")
        values += _values(header)
        packed += taken
        if amplifying or header.get(_DICTIONARY):
            longest = max(longest, unpacked)
    return Chunk(kind.path, repeated, strings, amplifying, values, packed, longest)


def _values(header: dict[int, Any]) -> int:
    """How many a page claims to hold."""
    own = header.get(_DATA) or header.get(_DATA_2)
    claimed = own.get(_VALUES) if isinstance(own, dict) else None
    return claimed if isinstance(claimed, int) else 0


def _first(column: dict[int, Any]) -> int:
    """Where the pages of a column begin."""
    first: int = column[_FIRST_PAGE]
    dictionary: int = column.get(_FIRST_DICTIONARY, 0)
    return dictionary if 0 < dictionary < first else first


def _pages(data: mmap.mmap | bytes, column: dict[int, Any]) -> Iterator[dict[int, Any]]:
    """The header of every page, as Parquet's own reader meets them."""
    first = _first(column)
    at, end = first, min(len(data), first + column[_TAKEN])
    while column[_COUNT] > 0 and 0 <= at < end:  # of a column without values, no page is looked for
        header, at = read_struct(data, at)
        if not (isinstance(header[_UNPACKED], int) and header[_UNPACKED] >= 0 and header[_PACKED] >= 0):
            raise KeyError("a page without a size")
        at += header[_PACKED]
        yield header
