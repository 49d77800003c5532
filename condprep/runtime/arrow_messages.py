"""Arrow streams that nobody vouches for: how much memory a batch takes is known before it is unpacked.

What is not compressed is mapped and takes none. A compressed buffer begins with its size when it is unpacked; where the
buffers lie stands in the message's metadata, a flatbuffer: https://arrow.apache.org/docs/format/Columnar.html.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa

from condprep.runtime.parquet_pages import BUDGET, RATIO, TooLarge

_MARK, _MOST_METADATA = b"\xff\xff\xff\xff", 1 << 26  # before each message; bytes of what describes one
_DICTIONARY, _RECORDS = 2, 3  # kinds of a Message's header
_COMPRESSION, _BUFFERS, _DATA = 3, 2, 1  # fields of a RecordBatch, and of a DictionaryBatch
_STRINGS = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)
_ODD = ("view", "run_end_encoded", "dictionary")  # types with which a few bytes can stand for many values


def check_arrow(path: Path) -> None:
    """Raises TooLarge, which is an ArrowInvalid, where a batch of the stream would be out of proportion in memory."""
    if damage := _of(path)[0]:
        raise TooLarge(damage)


def stream_rows(file: IO[bytes]) -> int:
    """How many rows the batches of a stream say that they have: what lies between their metadata is skipped.

    Raises ArrowInvalid for what is no stream.
    """
    rows = 0
    try:
        while (message := next_message(file)).data:
            if message.is_records:
                rows += _count(message.data, _field(message.data, message.header, 0))
            file.seek(message.body, os.SEEK_CUR)
    except (struct.error, IndexError, ValueError) as error:
        raise pa.ArrowInvalid(f"it is no Arrow stream: {error}") from None
    return rows


class Message(NamedTuple):
    """What describes a message, and how many bytes follow it; nothing at the end of a stream."""

    data: bytes
    kind: int = 0
    header: int = 0  # where its own table is in the data
    body: int = 0

    @property
    def is_records(self) -> bool:
        return self.kind == _RECORDS


def next_message(file: IO[bytes]) -> Message:
    """The one that begins where the file is. Raises ArrowInvalid for what is none, or is cut off."""
    head = file.read(8)
    size = struct.unpack("<i", head[4:])[0] if len(head) == 8 else 0
    if not size:
        return Message(b"")
    if head[:4] != _MARK or not 0 < size <= _MOST_METADATA or len(data := file.read(size)) < size:
        raise pa.ArrowInvalid("it is no Arrow stream")
    try:
        root = _table(data, 0)
        kind, header, body = (_field(data, root, number) for number in (1, 2, 3))
        return Message(data, data[kind] if kind else 0, _table(data, header) if header else 0, _count(data, body))
    except (struct.error, IndexError, ValueError) as error:
        raise pa.ArrowInvalid(f"it is no Arrow stream: {error}") from None


def schema_of(message: Message) -> pa.Schema:
    """Of the first message of a stream. Raises ArrowInvalid where it is none."""
    return pa.ipc.read_schema(pa.py_buffer(_MARK + struct.pack("<i", len(message.data)) + message.data))


def buffers_of(message: Message, schema: pa.Schema, columns: Collection[str]) -> list[tuple[int, int]]:
    """Where in the body of a batch those columns lie. Raises ArrowInvalid where that cannot be told."""
    try:
        found = list(_buffers(message.data, message.header))
    except (struct.error, IndexError) as error:
        raise pa.ArrowInvalid(f"it is no Arrow stream: {error}") from None
    counts = [_count_of_buffers(field.type) for field in schema]
    if sum(counts) != len(found):
        raise pa.ArrowInvalid(f"a batch has {len(found)} buffers, and its columns {sum(counts)}")
    ends = list(accumulate(counts))
    own = (found[end - n : end] for name, n, end in zip(schema.names, counts, ends) if name in columns)
    ranges = ((max(0, at), min(at + size, message.body)) for at, size in chain.from_iterable(own))
    return [(start, end) for start, end in ranges if start < end]


def _count_of_buffers(kind: pa.DataType) -> int:
    """How many a column of this type has, those of what is in it included."""
    if pa.types.is_null(kind):
        return 0
    plain = pa.types.is_primitive(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_decimal(kind)
    strings = any(is_one(kind) for is_one in _STRINGS)
    nested = pa.types.is_struct(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (plain or strings or nested):
        raise pa.ArrowInvalid(f"columns of type {kind!s:.80} are not told apart")
    inner = (kind.field(number).type for number in range(kind.num_fields)) if nested else ()
    return int(kind.num_buffers) + sum(map(_count_of_buffers, inner))


def is_compressed(path: Path) -> bool:
    """Whether reading the stream takes memory, and not only a mapping of the file."""
    return _of(path)[1]


def check_kinds(schema: pa.Schema, columns: Sequence[str]) -> None:
    """The same where columns are of types with which a few bytes stand for many values."""
    for column in columns:
        kind = str(schema.field(column).type)
        if any(odd in kind for odd in _ODD):
            raise TooLarge(
                f"column {column!r} is of type {kind:.80}, which is not read; write it as plain strings or lists"
            )


def _of(path: Path) -> tuple[str | None, bool]:
    status = path.stat()
    return _looked_through(path, status.st_size, status.st_mtime_ns)


@lru_cache(256)
def _looked_through(path: Path, size: int, changed: int) -> tuple[str | None, bool]:
    """What is wrong with a file, and whether it is compressed; size, changed: so that none that took its place is taken for it."""
    compressed = False
    with pa.memory_map(str(path)) as source:
        while True:
            try:
                message = pa.ipc.read_message(source)
                unpacked = sum(_unpacked(message))
                compressed = compressed or unpacked > 0
            except (EOFError, struct.error, pa.ArrowException, OSError, ValueError, IndexError):
                return None, compressed  # the end, or damage, of which the stream's own reader has more to say
            packed = len(message.body)
            if unpacked > BUDGET and unpacked > RATIO * packed:
                return f"{packed:,} bytes of a compressed batch would become {unpacked:,} in memory", True


def _unpacked(message: pa.Message) -> Iterator[int]:
    """Bytes of each buffer of a compressed batch."""
    data = message.metadata.to_pybytes()
    root = _table(data, 0)
    kind, batch = _field(data, root, 1), _field(data, root, 2)
    header = _table(data, batch) if batch else 0
    if kind and data[kind] == _DICTIONARY and (inner := _field(data, header, _DATA)):
        header = _table(data, inner)
    elif not kind or data[kind] != _RECORDS:
        return
    if not _field(data, header, _COMPRESSION):
        return
    for offset, length in _buffers(data, header):
        if length >= 8:
            yield max(0, struct.unpack("<q", message.body.slice(offset, 8).to_pybytes())[0])


def _buffers(data: bytes, header: int) -> Iterator[tuple[int, int]]:
    """Where each buffer of a batch begins in its body, and its bytes."""
    if buffers := _field(data, header, _BUFFERS):
        start = buffers + struct.unpack_from("<I", data, buffers)[0]
        for number in range(struct.unpack_from("<I", data, start)[0]):
            offset, length = struct.unpack_from("<qq", data, start + 4 + 16 * number)
            yield offset, length


def _count(data: bytes, at: int) -> int:
    """The number there, 0 where there is none. Raises ValueError for one that is negative."""
    found = int(struct.unpack_from("<q", data, at)[0]) if at else 0
    if found < 0:
        raise ValueError(f"a message says {found}")
    return found


def _table(data: bytes, at: int) -> int:
    """Where the table is to which the four bytes there point."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Where the field of a table is; 0: it has none."""
    virtual = table - int(struct.unpack_from("<i", data, table)[0])
    if 4 + 2 * number >= struct.unpack_from("<H", data, virtual)[0]:
        return 0
    offset = int(struct.unpack_from("<H", data, virtual + 4 + 2 * number)[0])
    return table + offset if offset else 0
