"""Writing one shard of the plan, exactly once.

A shard is a folder `.condprep/shards/00012/` with its rows (one file a split, more when they grow beyond the byte
limit), its rejects and its counts. It is filled under a partial name, put on disk and renamed: that is the commit.
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from condprep.dataset.arrow import record_batch
from condprep.dataset.records import read_record
from condprep.dataset.tar_rows import TarSink
from condprep.runtime.files import fsync
from condprep.runtime.folder import is_plain
from condprep.runtime.own import Held, make_folder, move, place_of, remove_tree
from condprep.types import Notes, Reject

BATCH_ROWS, BATCH_BYTES = (
    100,
    32_000_000,
)  # a record batch: `datasets` reads one to reach a row; far below Arrow's 2 GiB

Form = Literal["arrow", "parquet", "webdataset"]
SUFFIXES: Mapping[Form, str] = {"arrow": ".arrow", "parquet": ".parquet", "webdataset": ".tar"}
COUNTERS = ("rows", "rejects", "without_map")  # of Counts


@dataclass(frozen=True)
class Row:
    """One finished row: its columns, and what the summary counts."""

    columns: dict[str, Any]
    split: str
    enlarged: bool
    untouched: bool  # the source's own bytes were kept
    captioned: bool
    note: str | None = None  # what has to be said of how its captions were read
    without: tuple[str, ...] = ()  # "column: code" of maps that it lacks, of a dataset that gets columns

    @cached_property
    def size(self) -> int:
        return size_of(self.columns)


def size_of(columns: Mapping[str, Any]) -> int:
    """Bytes of a row's pictures and maps."""
    stored = (value.get("bytes") for value in columns.values() if isinstance(value, dict))
    return sum(len(data) for data in stored if isinstance(data, bytes))


def stored_row(values: dict[str, Any], split: str, image: str = "image", caption: str = "text") -> Row:
    """A row as it lies in a file, with what the summary counts. image, caption: their columns."""
    picture, transform, text = values.get(image), values.get("transform"), values.get(caption)
    data = picture.get("bytes") if isinstance(picture, dict) else None
    return Row(
        columns=values,
        split=split,
        enlarged=_enlarges(transform),
        untouched=isinstance(data, bytes) and sha256(data).hexdigest() == values.get("key"),
        captioned=any(text) if isinstance(text, list) else bool(text),
    )


def _enlarges(transform: Any) -> bool:
    """What a row says of its picture; rows may be anybody's."""
    scales = transform[::4] if isinstance(transform, list) and len(transform) == 6 else []
    return any(isinstance(scale, float) and scale > 1 for scale in scales)


@dataclass
class Counts:
    """What happened to the inputs of a shard, or of a whole build. inputs = sum of rows + sum of rejects."""

    rows: Counter[str] = field(default_factory=Counter)  # by split
    rejects: Counter[str] = field(default_factory=Counter)  # by code
    bytes: int = 0
    enlarged: int = 0
    untouched: int = 0
    without_caption: int = 0
    without_map: Counter[str] = field(default_factory=Counter)  # by "column: code", rows of a dataset that got columns
    files: list[dict[str, Any]] = field(default_factory=list)  # {"name", "split", "rows", "bytes"} in order
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)  # as in condprep.types.Notes

    @property
    def inputs(self) -> int:
        return self.rows.total() + self.rejects.total()

    def add(self, row: Row) -> None:
        self.rows[row.split] += 1
        self.bytes += row.size
        self.enlarged += row.enlarged
        self.untouched += row.untouched
        self.without_caption += not row.captioned
        self.without_map.update(row.without)
        if row.note:
            Notes(self.notes)(row.note, row.columns["source"])

    def merge(self, other: Counts) -> None:
        self.rows += other.rows
        self.rejects += other.rejects
        self.bytes += other.bytes
        self.enlarged += other.enlarged
        self.untouched += other.untouched
        self.without_caption += other.without_caption
        self.without_map += other.without_map
        Notes(self.notes).merge(other.notes)

    def less(self, other: Counts) -> None:
        """Without those inputs, which are among them. Notes stay: of the inputs behind them only the first are known."""
        self.rows -= other.rows
        self.rejects -= other.rejects
        self.bytes -= other.bytes
        self.enlarged -= other.enlarged
        self.untouched -= other.untouched
        self.without_caption -= other.without_caption
        self.without_map -= other.without_map

    def figures(self) -> dict[str, Any]:
        """What provenance keeps of them."""
        return {name: value for name, value in vars(self).items() if name not in ("files", "notes")}

    @classmethod
    def load(cls, path: Path) -> Counts:
        """Raises DatasetError where it names files that lie elsewhere: they are moved, and removed, by these names."""
        return read_record(path, cls.of)

    @classmethod
    def of(cls, stored: Any) -> Counts:
        """The same of what stands in the file. Raises KeyError, TypeError, ValueError or AttributeError for anything else."""
        if odd := [file["name"] for file in stored["files"] if not is_plain(file["name"])]:
            raise ValueError(f"{odd[0]!r:.200} is no name of a file here")
        numbers = [stored[name] for name in ("bytes", "enlarged", "untouched", "without_caption")]
        numbers += [file[name] for file in stored["files"] for name in ("rows", "bytes")]
        counted = {name: Counter({str(k): v for k, v in stored[name].items()}) for name in COUNTERS}
        if not all(
            isinstance(n, int) and n >= 0
            for n in [*numbers, *(rows for one in counted.values() for rows in one.values())]
        ):
            raise ValueError("counts that are no numbers")
        if not all(isinstance(file["split"], str) for file in stored["files"]):
            raise ValueError("a split without a name")
        return cls(**stored | counted)


class Sink(Protocol):
    """An open Arrow stream, Parquet file or tar."""

    def write_batch(self, batch: pa.RecordBatch) -> None: ...
    def close(self) -> None: ...


class DataFile:
    """One growing file of rows of one split."""

    def __init__(self, folder: Held, name: str, schema: pa.Schema) -> None:
        self.name, self.schema = name, schema
        self.rows = self.bytes = 0
        self._waiting: list[dict[str, Any]] = []
        self._waiting_bytes = 0
        self._file = os.fdopen(folder.create(name), "r+b")
        self._sink = _sink(place_of(self._file.fileno(), folder.folder / name), Path(name).suffix, schema)

    def add(self, row: Row) -> None:
        self._waiting.append(row.columns)
        self._waiting_bytes += row.size
        self.rows += 1
        self.bytes += row.size
        if len(self._waiting) >= BATCH_ROWS or self._waiting_bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._sink.write_batch(record_batch(self._waiting, self.schema))
        self._waiting, self._waiting_bytes = [], 0

    def close(self) -> None:
        with self._file:
            self._flush()
            self._sink.close()
            os.fsync(self._file.fileno())

    def abandon(self) -> None:
        """It will be removed."""
        with self._file, suppress(OSError, pa.ArrowException):
            self._sink.close()


def _sink(path: Path, suffix: str, schema: pa.Schema) -> Sink:
    if suffix == ".tar":
        return TarSink(path)
    sink: Sink = (
        pq.ParquetWriter(path, schema, compression="none")
        if suffix == ".parquet"
        else pa.ipc.new_stream(str(path), schema)
    )
    return sink


class ShardWriter:
    """Collects the rows and rejects of one shard and commits them together."""

    def __init__(self, folder: Path, schema: pa.Schema, suffix: str, max_bytes: int, writer: str = "") -> None:
        """folder: the final name; suffix: one of SUFFIXES; max_bytes: pictures and maps a file, about.

        writer: who writes it, where another one that is taken for dead may still do the same."""
        self.folder = folder
        self.partial = folder.with_name(".".join(filter(None, (folder.name, writer, "partial"))))
        self.schema, self.suffix, self.max_bytes = schema, suffix, max_bytes
        self.counts = Counts()
        self._open: dict[str, DataFile] = {}
        remove_tree(self.partial, ignore_errors=True)
        make_folder(self.partial)
        self._held = Held(self.partial)
        try:
            self._rejects = os.fdopen(self._held.create("rejects.jsonl"), "w", encoding="utf-8")
        except OSError as error:
            self._failed(error)
            self._held.close()
            raise

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Commits, or forgets the shard when something went wrong: a resumed build does it anew."""
        with closing(self._held), self._rejects:
            if kind is None:
                self._commit_or_forget()
            else:
                self._failed(error)

    def _commit_or_forget(self) -> None:
        try:
            self.commit()
        except BaseException as error:
            self._failed(error)
            raise

    def _failed(self, error: BaseException | None) -> None:
        """Nothing of it stays. What the disk said is told by the folder's own name."""
        self._held.name(error)
        for part in self._open.values():
            part.abandon()
        remove_tree(self.partial, ignore_errors=True)

    @property
    def folder_under_way(self) -> Path:
        """For whatever else belongs to the shard."""
        return self._held.place

    def add(self, outcome: Row | Reject) -> None:
        if isinstance(outcome, Row):
            self._row(outcome)
        else:
            self._reject(outcome)

    def _row(self, row: Row) -> None:
        part = self._open.get(row.split)
        if part is None:
            number = sum(file["split"] == row.split for file in self.counts.files)
            part = DataFile(self._held, f"{row.split}-{number:03d}{self.suffix}", self.schema)
            self._open[row.split] = part
        part.add(row)
        self.counts.add(row)
        if part.bytes >= self.max_bytes:
            self._close(row.split)

    def _reject(self, reject: Reject) -> None:
        self._rejects.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")
        self.counts.rejects[reject.code] += 1

    def _close(self, split: str) -> None:
        part = self._open.pop(split)
        part.close()
        self.counts.files.append({"name": part.name, "split": split, "rows": part.rows, "bytes": part.bytes})

    def commit(self) -> None:
        """Everything onto the disk, then the final name."""
        for split in sorted(self._open):
            self._close(split)
        with self._rejects:
            self._rejects.flush()
            os.fsync(self._rejects.fileno())
        with os.fdopen(self._held.create("counts.json"), "w", encoding="utf-8") as counts:
            counts.write(json.dumps(vars(self.counts), sort_keys=True))
            counts.flush()
            os.fsync(counts.fileno())
        fsync(self._held.place)
        try:
            move(self.partial, self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            remove_tree(self.partial)  # the shard is there already: it was built twice, which changes nothing
        fsync(self.folder.parent)
