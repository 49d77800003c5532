"""Arrow streams at a URL: what says where each batch lies, and the columns that are wanted, by ranges.

Arrow's reader maps a file of this machine. So a copy is made as of Parquet (`parquet_ranges`): a file as long as the object, with
holes where the other columns are, which a reader that asks for none of them never touches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from condprep.runtime.arrow_messages import buffers_of, next_message, schema_of
from condprep.runtime.local_copies import copy_of
from condprep.runtime.parquet_ranges import Stored, merged
from condprep.runtime.storage import Remote

# bytes of a request at least: small columns are at the end of a batch, and what describes the next one is behind them
BLOCK = 1 << 16


def with_columns(file: Stored, columns: Collection[str]) -> Path:
    """A file in which those columns are. Raises ArrowInvalid where only the whole object can tell."""
    place, status = file
    assert isinstance(place, Remote)
    assert status is not None
    size = status.size

    def fill(copy: IO[bytes]) -> None:
        copy.truncate(size)
        with place.open(block=BLOCK, status=status) as stream:
            for start, end in _ranges(stream, size, columns):
                stream.seek(start)
                copy.seek(start)
                copy.write(stream.read(end - start))

    return copy_of(f"{file.key} {' '.join(sorted(columns))}", place.name, BLOCK, fill)


def read_schema(file: Stored) -> pa.Schema:
    """The columns, with which a stream begins. Raises ArrowInvalid."""
    place, status = file
    assert isinstance(place, Remote)
    with place.open(status=status) as stream:
        return schema_of(next_message(stream))


def _ranges(stream: IO[bytes], size: int, columns: Collection[str]) -> Iterator[tuple[int, int]]:
    """Bytes that a reader of those columns touches, batch by batch. Raises ArrowInvalid for what is no whole stream."""
    schema: pa.Schema | None = None
    at = 0
    while at < size:
        stream.seek(at)
        message = next_message(stream)
        body = at + 8 + len(message.data)
        yield at, body
        if not message.data:
            return
        if schema is None:
            schema = schema_of(message)
        elif not message.is_records or body + message.body > size:
            raise pa.ArrowInvalid("it is cut off, or has more than batches of rows")
        else:
            yield from merged((body + start, body + end) for start, end in buffers_of(message, schema, columns))
        at = body + message.body
