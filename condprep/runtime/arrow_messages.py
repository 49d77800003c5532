"""Arrow streams that nobody vouches for: how much memory a batch takes is known before it is unpacked.

What is not compressed is mapped and takes none. A compressed buffer begins with its size when it is unpacked; where the
buffers lie stands in the message's metadata, a flatbuffer: https://arrow.apache.org/docs/format/Columnar.html.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

import pyarrow as pa

from condprep.runtime.parquet_pages import BUDGET, RATIO, TooLarge

_MARK, _MOST_METADATA = b"\xff\xff\xff\xff", 1 << 26  # before each message; bytes of what describes one
_DICTIONARY, _RECORDS = 2, 3  # kinds of a Message's header
_COMPRESSION, _BUFFERS, _DATA = 3, 2, 1  # fields of a RecordBatch, and of a DictionaryBatch
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
        while len(head := file.read(8)) == 8 and (size := struct.unpack("<i", head[4:])[0]):
            if head[:4] != _MARK or not 0 < size <= _MOST_METADATA:
                raise pa.ArrowInvalid("it is no Arrow stream")
            data = file.read(size)
            root = _table(data, 0)
            kind, batch, body = (_field(data, root, number) for number in (1, 2, 3))
            if kind and batch and data[kind] == _RECORDS:
                rows += _count(data, _field(data, _table(data, batch), 0))
            file.seek(_count(data, body), os.SEEK_CUR)
    except (struct.error, IndexError, ValueError) as error:
        raise pa.ArrowInvalid(f"it is no Arrow stream: {error}") from None
    return rows


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
    compressed, buffers = _field(data, header, _COMPRESSION), _field(data, header, _BUFFERS)
    if not compressed or not buffers:
        return
    start = buffers + struct.unpack_from("<I", data, buffers)[0]
    for number in range(struct.unpack_from("<I", data, start)[0]):
        offset, length = struct.unpack_from("<qq", data, start + 4 + 16 * number)
        if length >= 8:
            yield max(0, struct.unpack("<q", message.body.slice(offset, 8).to_pybytes())[0])


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
