"""Pictures that lie beside a table, whose rows name them by their paths: the table stays as it is when they change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from condprep.dataset.reader import Shard, batches, is_image, schema
from condprep.dataset.remote import is_far
from condprep.errors import DatasetError
from condprep.runtime.parquet_pages import sound_rows
from condprep.sources.base import stamp
from condprep.sources.reach import Reach

MOST_ROWS = 1000  # that are in memory at a time


def stamps_beside(files: Sequence[Shard], columns: Sequence[str], reach: Reach) -> Iterator[str]:
    """What changes when a picture does that a row names in one of these columns; nothing where the pictures are in the rows.

    At a URL there are none beside. Of a file that is damaged, those before the damage.
    """
    for file in files:
        with suppress(DatasetError, pa.ArrowException, OSError):  # whoever reads the rows says so
            for path in () if is_far(file.path) else _paths(file.path, columns):
                real = reach.real(path)
                yield stamp(real) if isinstance(real, Path) else "-"


def _paths(file: Path, columns: Sequence[str]) -> Iterator[str]:
    pictures = [column.name for column in schema(file) if column.name in columns and is_image(column.type)]
    if not pictures:
        return
    if file.suffix != ".parquet":
        for batch in batches(file, pictures):
            for name in pictures:
                yield from _without_bytes(batch.column(name))
        return
    for name in pictures if _lacks_bytes(file, pictures) else ():
        for batch in sound_rows(file, [f"{name}.path"], MOST_ROWS):
            yield from _texts(batch.column(0).field("path"))


def _lacks_bytes(file: Path, pictures: Sequence[str]) -> bool:
    """Whether there may be rows of Parquet that hold no bytes: a look at the footer spares one at the pictures."""
    found = pq.read_metadata(file)
    groups = map(found.row_group, range(found.num_row_groups))
    chunks = (group.column(n) for group in groups for n in range(found.num_columns))
    held = [chunk.statistics for chunk in chunks if chunk.path_in_schema in {f"{name}.bytes" for name in pictures}]
    return any(one is None or not one.has_null_count or one.null_count for one in held)


def _without_bytes(pictures: pa.StructArray) -> list[str]:
    return _texts(pictures.field("path").filter(pc.is_null(pictures.field("bytes"))))


def _texts(paths: pa.Array) -> list[str]:
    known = pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)
    return paths.drop_null().to_pylist() if known else []
