"""Rows that are streamed: a split's files are opened when a row of them is asked for, and those used last stay open.

What is known of a split before that is the number of rows of each file. A file is looked through when it is opened, as the whole
of a dataset is that is not streamed: its rows' structure, their sizes, and a fingerprint of its content.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import pyarrow as pa

from condprep.dataset.pairs.table import TablePairs
from condprep.dataset.reader import count_rows
from condprep.dataset.remote import shown
from condprep.images.geometry import Size
from condprep.runtime.concurrency import ordered_map
from condprep.runtime.files import commit_json, read_json
from condprep.runtime.own import make_folder
from condprep.sources.base import stamp as stamp_of_file
from trainer.data.recent import Recent
from trainer.data.rows import Rows, columns_of, of_kind, pairs_of, said_kinds, stamp_of
from trainer.data.scan import Scan, scan
from trainer.data.tables import open_shard
from trainer.errors import DataError
from trainer.recipe.recipe import Data, Text
from trainer.types import ONE_PROCESS, ProcessGroup, ShowProgress

COUNTERS = 16  # files whose rows are counted at a time: at URLs this is waiting
SPARE = 4  # files that stay open beside those of two windows: rows that wait for others of a rare bucket


class Shards:
    """The files of a split. Many threads may read."""

    def __init__(self, pairs: TablePairs, counts: Sequence[int], stamp: str, path: str) -> None:
        """counts: rows of each file, of which one has some; stamp: of what is read of them; path: the dataset's, for messages."""
        self.pairs, self.counts, self.path = pairs, counts, path
        self.ends = [*accumulate(counts)]  # the number behind each one's last row
        self.first = bisect_right(self.ends, 0)  # that has rows
        self._stamps = [stamp_of_file(file.path) for file in pairs.files]
        self._stamp = stamp
        self.tables = Recent(self._open, SPARE)
        self.names = open_shard(self.alone(self.first), self.stamp_of(self.first), path)[1]

    def of(self, row: int) -> tuple[int, int]:
        """A row's file, and its number in it."""
        shard = bisect_right(self.ends, row)
        return shard, row - self.rows_of(shard).start

    def rows_of(self, shard: int) -> range:
        return range(self.ends[shard] - self.counts[shard], self.ends[shard])

    def alone(self, shard: int) -> TablePairs:
        return replace(self.pairs, files=[self.pairs.files[shard]])

    def stamp_of(self, shard: int) -> str:
        """Of one file and what is read of it."""
        return sha256(json.dumps([self._stamp, shard, self._stamps[shard]]).encode()).hexdigest()

    def _open(self, shard: int) -> pa.Table:
        """Raises DataError where a file is gone, has changed, is damaged, or is stored otherwise than the first one."""
        file = self.pairs.files[shard].path
        restored = "put it back as it was, and the same command goes on from the newest checkpoint"
        try:
            if not file.exists():
                raise FileNotFoundError
            if stamp_of_file(file) != self._stamps[shard]:
                raise DataError(f"{shown(file)} has changed since the run began; {restored}")
            table, names = open_shard(self.alone(shard), self.stamp_of(shard), self.path)
        except FileNotFoundError:
            raise DataError(f"{shown(file)} is gone; {restored}") from None
        if table.num_rows != self.counts[shard]:
            raise DataError(f"{shown(file)} is damaged: it has {table.num_rows:,} of its {self.counts[shard]:,} rows")
        if names != self.names:
            raise DataError(f"{shown(file)} has other columns, or is stored otherwise, than the files before it")
        return table


@dataclass(frozen=True)
class StreamedRows(Rows):
    """Rows of which a file is opened when one of its own is asked for; `table` holds none of them."""

    shards: Shards = field(kw_only=True)

    def of_shard(self, shard: int) -> StreamedRows:
        """Those of one file, which keep what they are called."""
        stamp = self.shards.stamp_of(shard)
        return replace(self, numbers=self.shards.rows_of(shard), stamp=stamp, part=f"file {shard}")

    def _value(self, column: str | None, number: int) -> Any:
        if not column:
            return column
        shard, row = self.shards.of(self.numbers[number])
        return self.shards.tables[shard].column(column)[row].as_py()


class StreamedSizes(Sequence[Size]):
    """(height, width) of rows as stored, by number: a file is looked through when the size of one of its rows is asked for."""

    def __init__(self, rows: StreamedRows, kept: Path) -> None:
        """kept: the folder of what is known of files."""
        self._rows, self._kept = rows, kept
        self._scans = Recent(self._scan, SPARE)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> Size: ...
    @overload
    def __getitem__(self, number: slice) -> list[Size]: ...
    def __getitem__(self, number: int | slice) -> Size | list[Size]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        shard, row = self._rows.shards.of(number)
        return self._scans[shard].sizes[row]

    def fingerprint(self, number: int) -> tuple[str, int]:
        """Of the content of a row's file, and the row's number in it."""
        shard, row = self._rows.shards.of(number)
        return self._scans[shard].fingerprint, row

    def begin(self, shards: Sequence[int], group: ProcessGroup = ONE_PROCESS) -> None:
        """Open the files of a window. Those of the one before stay open, too: its rows are still being read.

        Each process begins with others, and finds what is known of a file that another one has looked through.
        """
        for recent in (self._rows.shards.tables, self._scans):
            recent.most = max(recent.most, 2 * len(shards) + SPARE)
        first = len(shards) * group.rank // group.size
        for shard in (*shards[first:], *shards[:first]):
            self._rows.shards.tables[shard], self._scans[shard]

    def _scan(self, shard: int) -> Scan:
        """Raises DataError that shows the first rows which are not as they must be."""
        return scan(self._rows.of_shard(shard), self._rows.shards.path, self._kept, captioned=False)


def open_stream(data: Data, text: Text, kept: Path, progress: ShowProgress = lambda *_: None) -> StreamedRows:
    """The rows of `data.split`, of which one file is opened. kept: the folder of what is known of files.

    Raises DataError as `open_rows` does, and for a dataset that is no files of rows.
    """
    pairs = pairs_of(data, data.split, text)
    if not isinstance(pairs, TablePairs):
        raise DataError(
            f"data.streaming = true reads files of rows (Arrow, Parquet), and {data.path} is none: say data.streaming = false"
        )
    stamp, kinds = stamp_of(pairs, data, text), said_kinds(pairs, data, text)
    counts = _counts(pairs, kept / f"counts-{stamp[:16]}.json", progress)
    if not sum(counts):
        raise DataError(f"{data.path} has no rows in split {data.split!r}")
    read = [*pairs.columns.names, pairs.further, *pairs.further_conditions]
    shards = Shards(pairs, counts, sha256(json.dumps(read).encode()).hexdigest(), data.path)
    table = shards.tables[shards.first]
    weights, total = tuple(text.captions[one] for one in text.columns), sum(counts)
    conditions = columns_of(pairs, data)
    rows = StreamedRows(
        *(table.slice(0, 0), shards.names, range(total), data.split, "", total, kinds, stamp, pairs.notes),
        *(conditions, weights),
        shards=shards,
    )
    known = of_kind(rows.of_shard(shards.first), data)
    said = f"rows are streamed: {total:,} in {len(counts):,} files, of which the first is looked at before the first update"
    return replace(rows, kinds=known.kinds, notes=[*known.notes, said])


def fingerprint(rows: StreamedRows, text: Text) -> str:
    """Of the files' names, sizes and numbers of rows, and of what is read of them: nothing of their content is."""
    pairs = rows.shards.pairs
    files = [
        [file.path.name, os.path.getsize(file.path), count] for file, count in zip(pairs.files, rows.shards.counts)
    ]
    read = [rows.split, *pairs.columns.names, rows.names.mask, *text.columns, *pairs.further_conditions]
    return sha256(json.dumps([read, files]).encode()).hexdigest()


def _counts(pairs: TablePairs, known: Path, progress: ShowProgress) -> list[int]:
    """Rows of each file, which are counted once. Raises DatasetError for a damaged file."""
    with suppress(OSError, ValueError, TypeError):
        found = read_json(known)
        if len(found) == len(pairs.files) and all(type(count) is int and count >= 0 for count in found):
            return list(found)
    counts = list[int]()
    with ThreadPoolExecutor(COUNTERS) as pool:
        for count in ordered_map(pool, lambda file: count_rows(file.path), pairs.files, ahead=4 * COUNTERS):
            counts.append(count)
            progress("counting rows", len(counts), len(pairs.files))
    make_folder(known.parent)
    commit_json(known, counts)
    return counts
