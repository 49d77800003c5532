"""Parquet at a URL: its footer, and the row groups that are wanted, by ranges.

Parquet's readers map a file of this machine. So a copy is made of what is needed and nothing else: a file as long as the
object, with holes where nothing was fetched. Whatever reads Parquet, and what bounds it (`parquet_pages`), reads that.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa

from condprep.runtime.local_copies import copy_of
from condprep.runtime.parquet_pages import MAX_FOOTER, Group, TooLarge, layout
from condprep.runtime.storage import CHUNK, Place, Remote
from condprep.runtime.stores import Status

TAIL = 1 << 16  # bytes at the end: most footers are in them, and they tell a file from another one of its size
GAP = 1 << 18  # bytes between two ranges that are fetched rather than asked for apart from each other


class Stored(NamedTuple):
    """A Parquet file: a Path, or an object as it was listed."""

    place: Place
    status: Status | None

    @property
    def key(self) -> str:
        return f"{self.place} {self.status}"


def stored(place: Place) -> Stored:
    """Raises FileNotFoundError."""
    return Stored(place, place.status() if isinstance(place, Remote) else None)


def with_footer(file: Stored) -> Path:
    """A file in which the footer and the last TAIL bytes are. Raises ArrowInvalid where there is none."""
    place, status = file
    if not isinstance(place, Remote) or status is None:
        return Path(str(place))
    if status.size < 12:
        raise pa.ArrowInvalid(f"{status.size} bytes are no Parquet file")

    def fill(copy: IO[bytes]) -> None:
        _frame(copy, status.size, _read_footer(place, status))

    return copy_of(f"{file.key} footer", place.name, TAIL, fill)


def _read_footer(place: Remote, status: Status) -> bytes:
    """The footer, and at least the last TAIL bytes. Raises TooLarge."""
    tail = place.read(max(0, status.size - TAIL), status.size, status.mark)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > MAX_FOOTER:
        raise TooLarge(f"it has {length:,} bytes of metadata, more than {MAX_FOOTER:,}")
    return tail if length <= len(tail) else place.read(max(0, status.size - length), status.size, status.mark)


def with_group(file: Stored, number: int, group: Group, columns: Sequence[str]) -> Path:
    """A file in which those columns of a row group are, and the footer."""
    place, status = file
    if not isinstance(place, Remote) or status is None:
        return Path(str(place))
    ranges = merged((start, end) for name, start, end in group.columns if name in columns)
    return _with_ranges(file, f"{number} {' '.join(columns)}", ranges)


def with_columns(file: Stored, columns: Collection[str]) -> Path:
    """A file in which those columns of all row groups are, and the footer. Raises ArrowInvalid where the footer is damaged."""
    groups = layout(with_footer(file))
    ranges = [(start, end) for group in groups for name, start, end in group.columns if name in columns]
    return _with_ranges(file, " ".join(sorted(columns)), merged(ranges))


def _with_ranges(file: Stored, key: str, ranges: Sequence[tuple[int, int]]) -> Path:
    """key: of what is in it, beside the footer."""
    place, status = file
    assert isinstance(place, Remote)
    assert status is not None
    size, mark = status.size, status.mark

    def fill(copy: IO[bytes]) -> None:
        with with_footer(file).open("rb") as known:
            known.seek(-8, io.SEEK_END)
            known.seek(-8 - int.from_bytes(known.read(4), "little"), io.SEEK_END)
            _frame(copy, size, known.read())
        for start, end in ranges:
            for at in range(start, end, CHUNK):
                copy.seek(at)
                copy.write(place.read(at, min(at + CHUNK, end), mark))

    return copy_of(f"{file.key} {key}", place.name, sum(end - start for start, end in ranges), fill)


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order, with those in one that lie near each other."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start - found[-1][1] <= GAP:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _frame(copy: IO[bytes], size: int, footer: bytes) -> None:
    """What tells a Parquet file: its first bytes, and its last ones."""
    copy.write(b"PAR1")
    copy.seek(size - len(footer))
    copy.write(footer)
