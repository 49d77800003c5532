"""Reading a dataset where it lies: its files by split, its columns, its rows in batches, without `datasets`.

Arrow files are mapped into memory and columns that are not asked for are never touched, so a dataset of any size is
read in constant memory. Files are not trusted: what a batch takes is known before it is unpacked, and it is validated before
anything is computed from it.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from condprep.dataset.arrow import row_of
from condprep.dataset.remote import columns_alone, content, in_part, is_far, opened, shown
from condprep.errors import CondprepError, DatasetError, SourceError
from condprep.runtime.arrow_messages import check_arrow, check_kinds, stream_rows
from condprep.runtime.arrow_ranges import read_schema
from condprep.runtime.folder import check_utf8
from condprep.runtime.parquet_pages import MAX_FOOTER, read_rows, sound_rows
from condprep.runtime.parquet_ranges import Stored, with_footer
from condprep.runtime.retry import as_fault, is_passing

BATCH_ROWS = 1000  # of Parquet; Arrow files come in the batches in which they were written
IMAGE_FIELDS = {"bytes", "path"}  # the fields of `datasets.Image`
SAVED = ("dataset_dict.json", "state.json")  # records of `save_to_disk`, which are there without rows, too
SPLIT_FILE = re.compile(r"(?P<split>.+)-\d+-of-\d+$")  # train-00000-of-00012


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a dataset."""

    path: Path
    split: str


def shards(root: Path, config: str | None = None) -> list[Shard]:
    """The dataset's files, by split and name: a `save_to_disk` folder or one of Parquet files.

    config: of those that the README.md of a Parquet dataset has.

    Raises DatasetError for a folder that is missing, holds no dataset, or one that is half built or half replaced.
    """
    check_whole(root)
    return files(root, config)


def check_whole(root: Path) -> None:
    """Raises DatasetError for a folder that is missing, and for a dataset that is half built or half replaced."""
    if root.is_file():
        raise DatasetError(f"{root} is a file; give the folder of a dataset")
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    private = root / ".condprep"
    if (private / "plan.json").exists() and not (private / "done.json").exists():
        raise DatasetError(
            f"{shown(root)} is a build that has not finished; run its `condprep build` again, and it goes on"
        )
    if (private / "into" / ".condprep" / "done.json").exists():
        raise DatasetError(
            f"{shown(root)} is being changed, and that has not finished; run its `condprep build --into` or `condprep split` "
            "again, and it goes on"
        )


def files(root: Path, config: str | None = None) -> list[Shard]:
    """The same, also of a build that is just finishing. Raises DatasetError where there are none."""
    found = _foreign_parquet(root, config) or _own(root)
    for file in found:
        check_utf8(file.path)
    return found


def _own(root: Path) -> list[Shard]:
    paths = [*root.glob("*.arrow"), *root.glob("*/*.arrow"), *root.glob("*.parquet"), *root.glob("*/*.parquet")]
    found = [Shard(path, _split(root, path)) for path in paths if _is_data(root, path)]
    if odd := [file.path for file in found if file.path.exists() and not file.path.is_file()]:
        raise DatasetError(f"{odd[0]} is no file, but a folder, a pipe or a device; take it away")
    if not found and any(root.glob("data/*.tar")):
        raise DatasetError(
            f"{shown(root)} is a WebDataset, for the readers of others; build it with --format arrow or parquet for this"
        )
    if not found and any((root / name).is_file() for name in SAVED):
        raise DatasetError(f"{shown(root)} is a dataset without rows: no .arrow files lie in it")
    if not found:
        raise DatasetError(
            f"{shown(root)} holds no dataset: neither .arrow nor .parquet files, in it or one folder below"
        )
    return sorted(found, key=lambda file: (file.split != "train", file.split, file.path.name))


def schema(path: Path) -> pa.Schema:
    """The columns of a file. Raises DatasetError that names it when it is damaged."""
    try:
        found = _schema(path)
        found.to_string(show_schema_metadata=False)  # raises for names that are no UTF-8, however deep
        names = Counter(found.names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damage(path, error) from error
    if doubled := [name for name, columns in names.items() if columns > 1]:
        raise DatasetError(f"{shown(path)} has two columns called {doubled[0]!r:.200}; rename one")
    return found


def _schema(path: Path) -> pa.Schema:
    if file := in_part(path):
        return _far_schema(file)
    with content(path) as held:
        if path.suffix == ".parquet":
            return pq.read_schema(held, memory_map=True)
        with pa.memory_map(str(held)) as source, pa.ipc.open_stream(source) as reader:
            return reader.schema


@lru_cache(1024)
def _far_schema(file: Stored) -> pa.Schema:
    if file.place.suffix == ".parquet":
        return pq.read_schema(with_footer(file), memory_map=True)
    return read_schema(file)


def first_schema(files: Sequence[Shard]) -> pa.Schema:
    """The columns of the first file that can be read. Raises DatasetError where none can."""
    for file in files:
        with suppress(DatasetError):
            return schema(file.path)
    return schema(files[0].path)


def batches(path: Path, columns: Sequence[str], rows_at_once: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The rows of a file, those columns alone. Raises DatasetError that names file and row where it is damaged.

    rows_at_once: of Parquet; few where the columns hold pictures.
    """
    rows = 0
    try:
        with _rows_of(path, columns) as held:
            found = sound_rows(held, columns, rows_at_once) if path.suffix == ".parquet" else _arrow(held, columns)
            for batch in found:
                batch.validate(full=True)
                rows += len(batch)
                yield batch
    except (pa.ArrowException, OSError) as error:
        raise _damage(path, error, f" after row {rows}") from error


def _rows_of(path: Path, columns: Sequence[str]) -> AbstractContextManager[Path]:
    """A file to be read; where it is at a URL, and no pictures are asked for, a copy of those columns alone."""
    file = in_part(path)
    if not file or any(_holds_bytes(one.type) for one in schema(path) if one.name in columns):
        return content(path)
    return columns_alone(file, columns)


def _holds_bytes(kind: pa.DataType) -> bool:
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or any(map(_holds_bytes, inner))


def count_rows(path: Path) -> int:
    """How many rows a file says it has; none is read. Raises DatasetError where that cannot be known."""
    try:
        if is_far(path):
            return _far_rows(path)
        if path.suffix == ".parquet":
            return int(pq.read_metadata(path).num_rows)
        return sum(batch.num_rows for batch in _arrow(path, schema(path).names[-1:]))
    except (pa.ArrowException, OSError) as error:
        raise _damage(path, error) from error


def _far_rows(path: Path) -> int:
    """The same of a file at a URL, of which little is fetched."""
    with opened(path) as file:
        if path.suffix != ".parquet":
            return stream_rows(file)
        file.seek(-8, os.SEEK_END)
        if int.from_bytes(file.read(4), "little") > MAX_FOOTER:
            raise pa.ArrowInvalid(f"it has more than {MAX_FOOTER:,} bytes of metadata")
        return int(pq.read_metadata(file).num_rows)


def readable_rows(path: Path) -> int:
    """How many rows can be read: all, or those before the damage."""
    rows = 0
    with suppress(DatasetError):
        for batch in batches(path, schema(path).names[-1:]):
            rows += len(batch)
    return rows


def take(path: Path, columns: Sequence[str], numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The rows of those numbers, ascending, in file order. Raises DatasetError as `batches` does."""
    wanted, start = deque(numbers), 0
    for batch in batches(path, columns):
        while wanted and wanted[0] < start + len(batch):
            yield row_of(batch, wanted.popleft() - start)
        if not wanted:
            return
        start += len(batch)


@dataclass(frozen=True)
class RowGroup:
    """Rows of a file that are read at once: those of an Arrow file, which is mapped, or of a row group of Parquet."""

    file: Shard
    group: int
    rows: int


def parts(file: Shard) -> Iterator[RowGroup]:
    """The parts of a file, in order. Raises DatasetError where it is damaged, after the part before the damage."""
    if file.path.suffix != ".parquet":
        yield RowGroup(file, 0, readable_rows(file.path))
        for _ in batches(file.path, schema(file.path).names[-1:]):
            pass
        return
    schema(file.path)  # raises
    with content(file.path) as held:
        metadata = pq.read_metadata(held)
    yield from (RowGroup(file, n, metadata.row_group(n).num_rows) for n in range(metadata.num_row_groups))


def read_part(part: RowGroup, columns: Sequence[str]) -> pa.Table:
    """The rows of a part, validated, those columns alone. Raises DatasetError where it is damaged."""
    path = part.file.path
    found: list[pa.RecordBatch] = []
    if path.suffix != ".parquet":
        with suppress(DatasetError):  # what follows is no part
            found.extend(batches(path, columns))
        return pa.Table.from_batches(found)
    try:
        with content(path) as held:
            table = read_rows(held, columns, [part.group])
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError) as error:
        raise _damage(path, error, f" in row group {part.group}") from error


def is_image(kind: pa.DataType) -> bool:
    """Whether a column holds pictures: {"bytes", "path"}."""
    return bool(pa.types.is_struct(kind)) and {field.name for field in kind} == IMAGE_FIELDS


def _arrow(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    check_arrow(path)
    check_kinds(known := schema(path), columns)
    names = known.names
    options = pa.ipc.IpcReadOptions(included_fields=[names.index(column) for column in columns])
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source, options=options) as reader:
        yield from reader


def _is_data(root: Path, path: Path) -> bool:
    """`datasets` leaves cache files beside its own; files and folders whose name starts with a dot are private."""
    return not path.name.startswith("cache-") and not any(part.startswith(".") for part in path.relative_to(root).parts)


def _foreign_parquet(root: Path, config: str | None) -> list[Shard]:
    """The Parquet files of a dataset that others made, by the splits that `datasets` tells; none where it is of Arrow files."""
    if (root / ".condprep").is_dir() or any(root.glob("*.arrow")) or any(root.glob("*/*.arrow")):
        return []
    from condprep.sources.huggingface import find_parquet, parquet_splits

    names = find_parquet(root)
    splits = parquet_splits(root, names, config) if names else {}
    return [Shard(root / name, split) for split, of_split in splits.items() for name in of_split]


def _split(root: Path, path: Path) -> str:
    if path.suffix == ".parquet" and (named := SPLIT_FILE.match(path.stem)):
        return named["split"]
    return "train" if path.parent in (root, root / "data") else path.parent.name


def _damage(path: Path, error: Exception, where: str = "") -> CondprepError:
    """What a reader raises: damage where the content is to blame, and else what keeps it from being read."""
    if is_passing(error):
        return as_fault(error, shown(path))
    if isinstance(error, OSError) and error.errno is not None:
        return SourceError(f"{shown(path)} cannot be read: {error.strerror}; mend that, or take the file away")
    return DatasetError(
        f"{shown(path)} is damaged{where}: {_first_line(error)}; put it back from a copy, or make it again"
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
