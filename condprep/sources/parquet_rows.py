"""The rows of Parquet files by number, streamed: a row group is fetched, or mapped, when its first row is asked for.

Rows are asked for nearly in order, by several threads. So of each row group under way a few batches are held, and whoever asks
for an earlier row (which a shard that is tried again does) has it read from its beginning once more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from condprep.runtime.local_copies import let_go
from condprep.runtime.parquet_pages import MOST_ROWS, Group, layout, rows_of_group
from condprep.runtime.parquet_ranges import Stored, stored, with_footer, with_group
from condprep.runtime.storage import Place, Remote

BATCH = 8 << 20  # bytes of rows that are unpacked at once
HELD = 128 << 20  # bytes of them that are held of a row group, beside the last two batches
OPEN = 4  # row groups that are under way at once


@dataclass(frozen=True)
class Part:
    """A row group of a file."""

    file: Stored
    number: int
    group: Group


@dataclass(frozen=True)
class ParquetRows:
    """Those columns of the files' rows, one file after the other. Picklable."""

    parts: tuple[Part, ...]
    schema: pa.Schema
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return self._starts[-1]

    def row(self, number: int) -> dict[str, Any]:
        """Thread-safe. Raises ArrowException for what is damaged."""
        at = bisect_right(self._starts, number) - 1
        found: dict[str, Any] = _under_way(self.parts[at], self.columns).row(number - self._starts[at])
        return found

    def select(self, columns: Sequence[str]) -> ParquetRows:
        return ParquetRows(self.parts, self.schema, tuple(columns))

    @cached_property
    def _starts(self) -> Sequence[int]:
        """The number of each part's first row, and how many rows there are."""
        return list(accumulate((part.group.rows for part in self.parts), initial=0))


def open_rows(files: Sequence[Place]) -> ParquetRows:
    """Raises ArrowException or OSError where a file's footer is damaged or cannot be read; columns are those of the first."""
    parts: list[Part] = []
    schema: pa.Schema | None = None
    for file in map(stored, files):
        path = with_footer(file)
        known = pq.read_schema(path, memory_map=True)
        schema = known if schema is None else schema
        if missing := set(schema.names) - set(known.names):
            raise pa.ArrowInvalid(f"{file.place.name} has no column {min(missing)!r}, unlike the files before")
        parts += [Part(file, number, group) for number, group in enumerate(layout(path)) if group.rows]
    assert schema is not None
    return ParquetRows(tuple(parts), schema, tuple(schema.names))


class _UnderWay:
    """A row group that is being read, from its beginning on."""

    def __init__(self, part: Part, columns: tuple[str, ...]) -> None:
        self.part, self.columns, self.lock = part, columns, Lock()
        self.copy: Path | None = None
        self.begin()

    def begin(self) -> None:
        self.held, self.next = deque[tuple[int, pa.RecordBatch]](), 0
        self.batches: Iterator[pa.RecordBatch] | None = None

    def row(self, number: int) -> dict[str, Any]:
        with self.lock:
            if number < (self.held[0][0] if self.held else self.next):
                self.begin()
            try:
                while number >= self.next:
                    self._read()
            except BaseException:
                self.begin()
                raise
            start, batch = next((start, one) for start, one in reversed(self.held) if start <= number)
        row: dict[str, Any] = batch.slice(number - start, 1).to_pylist()[0]
        return row

    def close(self) -> None:
        if self.copy is not None and isinstance(self.part.file.place, Remote):
            let_go(self.copy)

    def _read(self) -> None:
        if self.batches is None:
            group = self.part.group
            self.copy = with_group(self.part.file, self.part.number, group, self.columns)
            most = max(1, min(MOST_ROWS, BATCH * group.rows // max(1, group.size)))
            self.batches = rows_of_group(self.copy, self.columns, self.part.number, most)
        if (batch := next(self.batches, None)) is None:
            raise pa.ArrowInvalid(f"{self.part.file.place.name} has fewer rows than it says")
        batch.validate(full=True)
        self.held.append((self.next, batch))
        self.next += len(batch)
        while len(self.held) > 2 and sum(one.nbytes for _, one in self.held) > HELD:
            self.held.popleft()


_parts: OrderedDict[tuple[str, int, tuple[str, ...]], _UnderWay] = OrderedDict()
_choosing = Lock()


def _under_way(part: Part, columns: tuple[str, ...]) -> _UnderWay:
    """What reads a part: one for all threads; of more than OPEN, that which was not asked for longest is given up."""
    key = (_key(part.file), part.number, columns)
    with _choosing:
        if key not in _parts:
            _parts[key] = _UnderWay(part, columns)
        _parts.move_to_end(key)
        given_up = [_parts.popitem(last=False)[1] for _ in range(len(_parts) - OPEN)]
        for one in given_up:
            one.close()
        return _parts[key]


def _key(file: Stored) -> str:
    """A file of this machine may be another one by now."""
    if isinstance(file.place, Remote):
        return file.key
    status = file.place.stat()
    return f"{file.place} {status.st_size}:{status.st_mtime_ns}"
