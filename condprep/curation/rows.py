"""The rows of a dataset with all their columns, as they lie there, numbered as `verify` numbers them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from condprep.dataset.arrow import row_of
from condprep.dataset.columns import datasets_features
from condprep.dataset.layout import SPLITS, Layout
from condprep.dataset.pairs.beside import stamps_beside
from condprep.dataset.pairs.open import open_pairs
from condprep.dataset.pairs.table import FEW, TablePairs
from condprep.dataset.reader import Shard, batches, first_schema, is_image
from condprep.dataset.records import provenance, read_record, read_rejects
from condprep.dataset.shards import Row, stored_row
from condprep.errors import DatasetError, Rejected, UsageError
from condprep.sources.base import stamp
from condprep.sources.reach import stored_picture
from condprep.types import IMPORTED

NO_MAP = "no-map"  # where nobody knows by which code


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row. `values` is None where its file is damaged."""

    number: int
    split: str
    values: dict[str, Any] | None
    name: str  # where it has none of its own, as `verify` calls it: "train:17", its number in the split


class StoredRows:
    """The rows of Arrow or Parquet files on this disk."""

    def __init__(self, dataset: str | os.PathLike[str], columns: dict[str, Any]) -> None:
        """columns: {"image_column": ..., "config": ...}, as for `open_pairs`. Raises UsageError for any other dataset."""
        pairs = open_pairs(os.fspath(dataset), **columns)
        if not isinstance(pairs, TablePairs) or not isinstance(pairs.reach.root, Path):
            raise UsageError(
                f"the rows of {os.fspath(dataset)!r} are not in Arrow or Parquet files on this disk, and only those can be "
                "copied as they are; make a dataset of it with `condprep build` first"
            )
        self.dataset, self.root, self.files = os.fspath(dataset), pairs.reach.root, pairs.files
        self.reach = pairs.reach
        self.image, self.condition, self.caption = pairs.columns.image, pairs.columns.condition, pairs.columns.caption
        self._read = pairs.columns.names  # what verify reads of a row
        if stray := {file.split for file in self.files} - set(SPLITS):
            raise UsageError(f"{self.root} has a split {min(stray)!r}; rename its files: known are {', '.join(SPLITS)}")

    @cached_property
    def schema(self) -> pa.Schema:
        """That of the first file that can be read."""
        return first_schema(self.files)

    @property
    def features(self) -> dict[str, Any]:
        """The columns in the words of `datasets`: its own, where the files have them."""
        with suppress(KeyError, ValueError, TypeError):
            stored: dict[str, Any] = json.loads(self.schema.metadata[b"huggingface"])["info"]["features"]
            if list(stored) == self.schema.names:
                return stored
        return datasets_features({column.name: column.type for column in self.schema})

    @cached_property
    def maps(self) -> list[str]:
        """Columns of what annotators made, where condprep says so: of rows that an annotator could not use they are empty."""
        made = (Records(Layout(self.root)).provenance or {}).get("annotators", [])
        return [one["column"] for one in made if one["column"] in self.schema.names]

    @property
    def form(self) -> Literal["arrow", "parquet"]:
        return "parquet" if self.files[0].path.suffix == ".parquet" else "arrow"

    @property
    def listing(self) -> str:
        """Changes when a file does."""
        lines = [f"{file.path.relative_to(self.root).as_posix()}\0{stamp(file.path)}\0" for file in self.files]
        pictures = [column.name for column in self.schema if is_image(column.type)]
        lines += [f"{one}\0" for one in stamps_beside(self.files, pictures, self.reach)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def check_unchanged(self, listing: str) -> None:
        """Raises DatasetError where the files are not those of that `listing`: what was read of them may be of two states."""
        if self.listing != listing:
            raise DatasetError(
                f"{self.dataset} was changed while it was read; wait for what changes it, then run this again with --overwrite"
            )

    def lengths(self, damaged: Container[str]) -> list[int]:
        """How many rows `verify` sees in each file; of damaged ones, by name, those that it reads before the damage."""
        small = [column.name for column in self.schema if not is_image(column.type)][:1] or self.schema.names[:1]
        return [self._length(file, self._read if file.path.name in damaged else small) for file in self.files]

    def _length(self, file: Shard, columns: Sequence[str]) -> int:
        rows = 0
        with suppress(DatasetError):
            for batch in batches(file.path, columns, FEW):
                rows += len(batch)
        return rows

    def read(self, lengths: Sequence[int], start: int, stop: int) -> Iterator[StoredRow]:
        """The rows from `start` up to `stop`, in order, each read once. lengths: rows of each file."""
        first, places = 0, Counter[str]()
        for file, length in zip(self.files, lengths):
            wanted = range(max(first, start), min(first + length, stop))
            yield from self._of_file(file, first, wanted, places[file.split] - first)
            first += length
            places[file.split] += length

    def _of_file(self, file: Shard, first: int, wanted: range, less: int) -> Iterator[StoredRow]:
        """first: the number of the file's first row. less: what makes a number that in the split."""
        number = first
        with suppress(DatasetError):
            for batch in batches(file.path, self.schema.names, FEW) if wanted else ():
                for at in range(max(0, wanted.start - number), min(len(batch), wanted.stop - number)):
                    name = f"{file.split}:{number + at + less}"
                    yield StoredRow(number + at, file.split, self._embedded(row_of(batch, at)), name)
                number += len(batch)
                if number >= wanted.stop:
                    return
        for missing in range(max(number, wanted.start), wanted.stop):
            yield StoredRow(missing, file.split, None, f"{file.split}:{missing + less}")

    def _embedded(self, values: dict[str, Any]) -> dict[str, Any]:
        """Pictures that are stored as paths below the dataset become bytes: another folder has no such files."""
        for column in self.schema:
            stored = values[column.name] if is_image(column.type) else None
            if stored and stored["bytes"] is None:
                with suppress(Rejected):
                    values[column.name] = {"bytes": stored_picture(stored, self.reach, column.name), "path": None}
        return values


@dataclass(frozen=True)
class Records:
    """What condprep wrote down about a dataset that it built; nothing of any other."""

    layout: Layout

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the build."""
        path = self.layout.private / "plan.json"
        return read_record(path, lambda plan: dict(plan["config"])) if path.exists() else {}

    @cached_property
    def provenance(self) -> dict[str, Any] | None:
        path = self.layout.private / "provenance.json"
        return read_record(path, provenance) if path.exists() else None

    @property
    def annotated(self) -> bool:
        """Whether annotators made the maps, so that they can be made again."""
        made = (self.provenance or {}).get("annotators", [])
        return bool(made) and all(one["annotator"] != IMPORTED for one in made)

    @property
    def rejects(self) -> bytes:
        return read_rejects(self.layout.private)

    @property
    def options(self) -> dict[str, Any]:
        requested = self.config.get("requested")
        options = requested.get("options") if isinstance(requested, dict) else None
        return dict(options) if isinstance(options, dict) else {}

    def limit(self, name: str, default: int) -> int:
        """The size of shards that the dataset was built with."""
        found = self.options.get(name)
        return found if isinstance(found, int) and found > 0 else default


def as_row(row: StoredRow, rows: StoredRows) -> Row:
    """A row for a ShardWriter, with what the summary counts."""
    values = row.values or {}
    without = tuple(f"{column}: {NO_MAP}" for column in rows.maps if values.get(column) is None)
    return replace(stored_row(values, row.split, rows.image, rows.caption or ""), without=without)


def without_map(counted: Counter[str], before: Mapping[str, int]) -> Counter[str]:
    """What `as_row` counted, by the codes that were known before; by none where only some rows of several codes are left."""
    found = Counter[str]()
    for name, rows in counted.items():
        column = name.removesuffix(f": {NO_MAP}")
        known = {coded: n for coded, n in before.items() if coded.partition(": ")[0] == column}
        all_there = sum(known.values()) == rows
        found += Counter(known if all_there else {next(iter(known)) if len(known) == 1 else name: rows})
    return found
