"""Pairs in Arrow and Parquet files: our datasets, any other of Hugging Face, on disk or on the Hub."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import accumulate, count, islice
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa

from condprep.annotators.protocol import full_name
from condprep.dataset.pairs.base import (
    CONDITION_NAMES,
    Columns,
    Made,
    Pair,
    choose_columns,
    digest,
    kind_of_name,
    padding,
    read_transform,
    readable,
)
from condprep.dataset.pairs.beside import stamps_beside
from condprep.dataset.reader import (
    RowGroup,
    Shard,
    batches,
    count_rows,
    first_schema,
    is_image,
    parts,
    read_part,
    schema,
)
from condprep.dataset.records import primary_column
from condprep.dataset.remote import is_far, shown
from condprep.errors import DatasetError, Rejected
from condprep.runtime.files import read_json
from condprep.sources.base import rejected_entry, stamp
from condprep.sources.huggingface import from_hub
from condprep.sources.reach import Reach, stored_picture
from condprep.sources.text import read_values
from condprep.types import CONDITION_KINDS, IMPORTED, Entry, Sample

TRANSFORM, SOURCE = (
    "transform",
    "source",
)  # columns in which a build says where the picture lay in its source, and which that is
UNRECORDED = (OSError, ValueError, KeyError, TypeError, AttributeError)  # records are no more trusted than rows
FEW = 16  # rows of Parquet that are in memory at a time; Arrow is mapped


@dataclass(frozen=True)
class TablePairs:
    """The rows of Arrow or Parquet files. A damaged file gives a pair with its problem, and the next one follows."""

    files: Sequence[Shard]
    columns: Columns
    reach: Reach  # where pictures that are stored as paths may lie
    made: Made | None
    imported: str | None = None  # the kind that was recorded for maps that were imported
    further: str | None = None  # a column of pictures that is read, too
    further_conditions: Sequence[str] = ()  # columns of maps that are read, too
    further_captions: Sequence[str] = ()  # columns of text that are read, too
    unseen: Sequence[str] = ()  # columns of other pictures, which are not read

    @property
    def said(self) -> str | None:
        return (self.made and self.made.kind) or self.imported or kind_of_name(self.columns.condition)

    @property
    def notes(self) -> Sequence[str]:
        return self.columns.notes

    @property
    def captioned(self) -> bool:
        return self.columns.caption is not None

    @property
    def keyed(self) -> bool:
        return self.columns.key is not None

    @property
    def stamp(self) -> str:
        return digest(f"{file.split}/{file.path.name} {self._stamp_of(file)}" for file in self.files)

    def _stamp_of(self, file: Shard) -> str:
        """Of a file, and of the pictures beside it that its rows name."""
        beside = list(stamps_beside([file], self._picture_columns, self.reach))
        return f"{stamp(file.path)} {digest(beside)}" if beside else stamp(file.path)

    def __iter__(self) -> Iterator[Pair]:
        return self.read()

    def read(self, only: Container[int] | None = None) -> Iterator[Pair]:
        numbers, places = count(), defaultdict[str, Iterator[int]](count)
        for file in self.files:
            try:
                for batch in batches(file.path, self._columns_of(file), FEW):
                    yield from self._pairs(batch, file.split, zip(numbers, places[file.split]), only)
            except DatasetError as error:
                if only is None:
                    yield Pair(None, file.path.name, problem=str(error))

    @property
    def identity(self) -> Mapping[str, Any]:
        columns = {role: getattr(self.columns, role) for role in ("image", "condition", "caption")}
        return {"splits": sorted({file.split for file in self.files})} | columns

    def known_rows(self) -> int | None:
        if any(is_far(file.path) for file in self.files):
            return None
        try:
            return sum(count_rows(file.path) for file in self.files)
        except DatasetError:  # damaged: what can be read of it is seen later
            return None

    def entries(self) -> Iterator[Entry]:
        """Called "train:17"; the rows of a split are numbered from 0. A damaged file is an entry of its own."""
        rows, numbers = count(), Counter[str]()
        for file in self.files:
            now = self._stamp_of(file)
            if before := numbers[file.split]:
                now += f" {before}"  # behind other files its rows have other numbers
            try:
                for part in self._parts_of(file):
                    for n in range(numbers[file.split], numbers[file.split] + part.rows):
                        yield Entry(f"{file.split}:{n}", now, offset=next(rows))
                    numbers[file.split] += part.rows
            except DatasetError as error:
                damaged = Rejected("source", str(error), code="damaged-source")
                yield rejected_entry(f"{file.split}/{file.path.name}", damaged, now)

    def sample(self, entry: Entry) -> Sample:
        number = bisect_right(self._starts, entry.offset) - 1
        part = self._parts[number]
        try:
            with _reading:
                table = _table(part, tuple(self.columns.names), entry.stamp)
        except DatasetError as error:
            raise Rejected("read", str(error), code="damaged-source") from None
        values = {name: table.column(name)[entry.offset - self._starts[number]] for name in self.columns.names}
        image, condition = self._pictures(values)
        caption = values[self.columns.caption].as_py() if self.columns.caption else None
        return Sample(entry.name, image, read_values(caption).texts, condition=condition)

    def _parts_of(self, file: Shard) -> Iterator[RowGroup]:
        self._columns_of(file)
        yield from parts(file)

    @cached_property
    def _parts(self) -> Sequence[RowGroup]:
        found: list[RowGroup] = []
        for file in self.files:
            with suppress(DatasetError):  # it is an entry of its own
                found.extend(self._parts_of(file))
        return found

    @cached_property
    def _starts(self) -> Sequence[int]:
        """The number of each part's first row."""
        return list(accumulate((part.rows for part in self._parts), initial=0))[:-1]

    def _columns_of(self, file: Shard) -> list[str]:
        """Those that are read. Raises DatasetError where the file is damaged, or lacks one."""
        known = schema(file.path)
        there = set(known.names)
        further = [*self.further_conditions, *([self.further] if self.further else []), *self.further_captions]
        wanted = [*self.columns.names, *further]
        if missing := set(wanted) - there:
            raise DatasetError(f"{shown(file.path)} has no column {sorted(missing)[0]!r}, unlike the files before")
        named = {SOURCE} if SOURCE in there and pa.types.is_string(known.field(SOURCE).type) else set()
        return list(dict.fromkeys([*wanted, *({TRANSFORM} & there), *named]))

    def _pairs(
        self, batch: pa.RecordBatch, split: str, numbers: Iterator[tuple[int, int]], only: Container[int] | None
    ) -> Iterator[Pair]:
        """numbers: of the rows in the dataset, and in their split."""
        named = {name: batch.column(name) for name in batch.schema.names}
        for n, (row, place) in enumerate(islice(numbers, len(batch))):
            if only is None or row in only:
                yield self._pair(row, f"{split}:{place}", split, {name: of[n] for name, of in named.items()})

    def _pair(self, row: int, name: str, split: str, values: Mapping[str, pa.Scalar]) -> Pair:
        """name: of a row that has no key."""
        caption, source = None, None
        try:
            key = _plain(values, self.columns.key)
            name = name if key is None else str(key)
            caption, source = _plain(values, self.columns.caption), _plain(values, SOURCE)
            image, condition, *further = self._pictures(values)
            placed = _plain(values, TRANSFORM)
            captions = [_plain(values, column) for column in self.further_captions]
        except Rejected as rejected:
            both = self.columns.image, self.columns.condition
            image, condition = (readable(partial(self._picture, values, column)) for column in both)
            return Pair(row, name, image, condition, caption, rejected.reason, split=split, source=_name(source))
        return Pair(
            row,
            name,
            image,
            condition,
            caption,
            split=split,
            padding=padding(placed),
            further_conditions=further[: len(self.further_conditions)],
            further=b"".join(further[len(self.further_conditions) :]),
            further_captions=captions,
            source=_name(source),
            transform=read_transform(placed),
        )

    def _pictures(self, values: Mapping[str, pa.Scalar]) -> list[bytes]:
        """The encoded picture, its map, and those of further columns. Raises Rejected("read", reason)."""
        return [self._picture(values, column) for column in self._picture_columns]

    def _picture(self, values: Mapping[str, pa.Scalar], column: str) -> bytes:
        return stored_picture(_plain(values, column), self.reach, column)

    @property
    def _picture_columns(self) -> list[str]:
        own = (self.columns.image, self.columns.condition, *self.further_conditions)
        return list(filter(None, (*own, self.further)))


def _name(source: Any) -> str | None:
    """What a row says of where its picture comes from; a column of pictures may have that name, too."""
    return source if isinstance(source, str) else None


def _plain(values: Mapping[str, pa.Scalar], column: str | None) -> Any:
    """A value of Python's; None where there is no such column. Raises Rejected("read", reason) where it has none."""
    try:
        return values[column].as_py() if column and column in values else None
    except (ValueError, OverflowError, pa.ArrowException) as error:  # a date beyond the year 9999
        raise Rejected("read", f"{column!r} holds a value that cannot be read: {error}", code="bad-value") from None


_reading = Lock()  # of a part that several threads want, one reads it


@lru_cache(maxsize=2)
def _table(part: RowGroup, columns: tuple[str, ...], stamp: str) -> pa.Table:
    """stamp: of the file, so that one which took its place is not taken for it."""
    return read_part(part, columns)


def open_table(
    files: Sequence[Shard], folder: Path | None, wanted: Mapping[str, str | None], also: tuple[Path, ...] = ()
) -> TablePairs:
    """Pairs of those files. Raises SourceError where the columns of pictures and maps are not clear."""
    known = first_schema(files)
    pictures = [column.name for column in known if is_picture(column.type)]
    columns = choose_columns(pictures, [name for name in known.names if name not in pictures], wanted)
    found = TablePairs(files, columns, Reach(folder, also), None, unseen=_unseen(known, columns, folder))
    if not folder or not (one := _recorded(folder, columns.condition)):
        return found
    if one["annotator"] == IMPORTED:
        return replace(found, imported=_kind(one))
    return replace(found, made=Made(one["annotator"], one["params"], one["weights"], str(one["column"])))


def open_hub(
    name: str, wanted: Mapping[str, str | None], config: str | None = None, also: tuple[Path, ...] = ()
) -> TablePairs:
    """Pairs of a dataset on the Hub, all its splits; it is downloaded into the cache of `datasets`. Raises SourceError."""
    found = from_hub(name, config)
    files = [Shard(Path(file["filename"]), split) for split, part in found.dataset.items() for file in part.cache_files]
    return open_table(
        sorted(files, key=lambda file: (file.split != "train", file.split, file.path.name)),
        None,
        wanted,
        found.reach.also + also,
    )


def is_picture(kind: pa.DataType) -> bool:
    return is_image(kind) or bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _recorded(root: Path, column: str) -> Mapping[str, Any] | None:
    """How the build says that it made, or imported, the maps of a column; None where the records do not tell."""
    try:
        provenance = read_json(root / ".condprep" / "provenance.json")
        made = {one["column"]: one for one in provenance["annotators"]}
        one: dict[str, Any] = made[column if column in made else _primary(root, provenance)]
        return (
            one
            | {name: dict(one[name]) for name in ("params", "weights", "parameters")}
            | {"annotator": full_name(one["annotator"], one["variant"])}
        )
    except UNRECORDED:
        return None


def _primary(root: Path, provenance: Mapping[str, Any]) -> str | None:
    options = read_json(root / ".condprep" / "plan.json")["config"]["requested"]["options"]
    return primary_column(provenance, options)


def _unseen(known: pa.Schema, columns: Columns, folder: Path | None) -> list[str]:
    """Further columns of pictures; of two that hold the same maps, as a build's `conditioning_image` and one of its annotators, one."""
    first, seen, primary = CONDITION_NAMES[0], {columns.image, columns.condition}, None
    with suppress(*UNRECORDED):
        primary = _primary(folder, read_json(folder / ".condprep" / "provenance.json")) if folder else None
    if primary and primary in known.names:
        seen |= {first} | ({primary} if columns.condition == first else set())
    return [column.name for column in known if is_image(column.type) and column.name not in seen]


def _kind(imported: Mapping[str, Any]) -> str | None:
    kind = imported["parameters"].get("kind")
    return kind if kind in CONDITION_KINDS else None
