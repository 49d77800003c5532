"""An imagefolder: pictures listed, with their captions, in metadata.jsonl, metadata.csv or metadata.parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import file_digest
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from condprep.errors import Rejected, SourceError
from condprep.runtime.retry import as_fault, is_passing, retried
from condprep.sources.base import (
    CAPTION_COLUMNS,
    caption_values,
    existing_folder,
    file_problem,
    is_metadata,
    listing,
    name_in,
    native,
    read_listed,
    refused,
    rejected_entry,
    stamp,
    sub_listing,
    within,
)
from condprep.types import Entry, Sample

MAX_LINE = 1 << 20  # bytes of one line of JSON or CSV; a longer one is a problem entry

MetadataRow = tuple[int, dict[str, Any] | str]  # number (line or row, from 1), and the values or why there are none


@dataclass(frozen=True)
class ImagefolderSource:
    """The rows of a metadata file, in its order; pictures that it does not name are no inputs.

    A row names its picture relative to the metadata file, and never outside that folder. A row that cannot be used
    (malformed, duplicate, its file missing or outside) is a problem entry called `metadata.jsonl:LINE`.
    """

    metadata: Path
    image_column: str = "file_name"
    caption_column: str | None = None  # None: the first of CAPTION_COLUMNS that a row has
    split: str | None = None
    kind: str = "imagefolder"
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        with self.metadata.open("rb") as file:
            object.__setattr__(self, "sha256", file_digest(file, "sha256").hexdigest())
        self._check_columns()

    @property
    def identity(self) -> dict[str, Any]:
        columns = {"image_column": self.image_column, "caption_column": self.caption_column}
        return {"kind": self.kind, "metadata": self.metadata.name, "sha256": self.sha256, "split": self.split} | columns

    def entries(self) -> Iterator[Entry]:
        seen: set[int] = set()  # hashes, 70 bytes a row; the names themselves would take several times that
        for number, row in self._rows():
            try:
                entry = self._entry(row)
                if hash(entry.name) in seen:
                    raise Rejected("source", f"{entry.name!r} was listed before", code="listed-twice")
                seen.add(hash(entry.name))
            except Rejected as rejected:
                entry = rejected_entry(f"{self.metadata.name}:{number}", rejected)
            yield entry

    def read(self, entry: Entry) -> Sample:
        return Sample(entry.name, read_listed(self._locate(native(entry.name))), entry.text or ())

    def _entry(self, row: dict[str, Any] | str) -> Entry:
        if isinstance(row, str):
            raise Rejected("source", row, code="bad-listing")
        name = row.get(self.image_column)
        if not isinstance(name, str) or not name:
            raise Rejected("source", f"no {self.image_column}", code="bad-listing")
        path = self._locate(name)
        try:
            status = retried(path.stat, name)
        except OSError as error:
            raise refused("source", f"{name!r} cannot be read", error) from None
        if problem := file_problem(status):
            raise Rejected("source", f"{name!r}: {problem.reason}", code=problem.code)
        text = caption_values(next((row[column] for column in self._caption_columns if column in row), None))
        return Entry(name_in(self.metadata, str(PurePosixPath(name))), stamp(path), size=status.st_size, text=text)

    @property
    def _caption_columns(self) -> Sequence[str]:
        return CAPTION_COLUMNS if self.caption_column is None else (self.caption_column,)

    def _locate(self, name: str) -> Path:
        """The picture's real path. Raises Rejected for one that leaves the folder, by `..` or by a link."""
        real = None if os.path.isabs(name) else within(self.metadata.parent, name)
        if real is None:
            reason = f"{name!r} is outside the folder of {self.metadata.name}"
            raise Rejected("read", reason, code="outside-source")
        return real

    def _rows(self) -> Iterator[MetadataRow]:
        return {".jsonl": json_rows, ".csv": csv_rows, ".parquet": parquet_rows}[self.metadata.suffix](self.metadata)

    def _check_columns(self) -> None:
        """Raises SourceError for a column that the user named and the first rows do not have."""
        rows = [row for _, row in islice(self._rows(), 100) if isinstance(row, dict)]
        known = dict.fromkeys(column for row in rows for column in row)
        for option, column in (("--image-column", self.image_column), ("--caption-column", self.caption_column)):
            if rows and column is not None and column not in known:
                raise SourceError(
                    f"{self.metadata.name} has no column {column!r}; name one with {option}: {', '.join(known)}"
                )


def find_metadata(path: str, split: str | None) -> Path:
    """The metadata file of an imagefolder: the path itself, in its folder, or in the folder of the split. Raises SourceError."""
    if Path(path).is_file() and split is None:
        return Path(path)
    folder = existing_folder(os.path.join(path, split or ""))
    found = [folder / name for name in listing(folder) if is_metadata(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise SourceError(f"{path!r} holds {', '.join(file.name for file in found)}; give the path of one of them")
    splits = [name for name in listing(folder) if any(map(is_metadata, sub_listing(folder / name)))]
    if len(splits) == 1:
        return find_metadata(path, splits[0])
    if splits:
        raise SourceError(f"{path!r} has the splits {', '.join(splits)}; choose one with --split")
    raise SourceError(f"there is no metadata.jsonl, metadata.csv or metadata.parquet in {str(folder)!r}")


def json_rows(path: Path) -> Iterator[MetadataRow]:
    """One JSON object per line. Blank lines are skipped; any other line that is no object is a problem."""
    for number, line, whole in _lines(path):
        if not whole:
            yield number, f"line longer than {MAX_LINE} bytes"
        elif line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"malformed JSON: {error}"
            else:
                yield number, value if isinstance(value, dict) else f"a JSON {type(value).__name__}, not an object"


def csv_rows(path: Path) -> Iterator[MetadataRow]:
    """Comma-separated under a header. A row with more or fewer fields than the header is a problem."""
    # a line that was cut has a field beyond csv's limit, or too few fields: a problem either way
    reader = csv.reader(line for _, line, _ in _lines(path))
    header: list[str] = []
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"malformed CSV: {error}"
            continue
        if not header:
            header = fields
        elif len(fields) == len(header):
            yield reader.line_num, dict(zip(header, fields))
        elif fields:
            yield reader.line_num, f"{len(fields)} fields under a header of {len(header)}"


def parquet_rows(path: Path) -> Iterator[MetadataRow]:
    """The rows of a Parquet file, a thousand in memory at a time. Raises SourceError if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        if is_passing(error):
            raise as_fault(error, path.name) from error
        raise SourceError(f"{path.name} is no Parquet file: {error}") from None
    number = 0
    with file:
        try:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pa.ArrowException, OSError) as error:
            if is_passing(error):
                raise as_fault(error, path.name) from error
            yield number + 1, f"damaged from here on: {error}"


def _lines(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(number, text, whether that is all of the line); bad UTF-8 is replaced, and no line held beyond MAX_LINE."""
    number = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            number += 1
            whole = len(line) < MAX_LINE or line.endswith(b"\n")
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8", "replace"), whole
            while not whole and not (file.readline(MAX_LINE) or b"\n").endswith(b"\n"):
                pass
