"""Pictures that lie beside a table, whose rows name them by their paths: the table stays as it is when they change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from condprep.runtime.parquet_pages import sound_rows
from condprep.sources.base import stamp
from condprep.sources.reach import Reach

MOST_ROWS = 1000  # that are in memory at a time


def parquet_paths(file: Path, column: str) -> Iterator[str]:
    """What the rows of a Parquet file name in a column of pictures; nothing where all pictures are in the rows.

    Raises ArrowInvalid where the file is damaged, after those before the damage.
    """
    if not _lacks_bytes(file, column):
        return
    for batch in sound_rows(file, [f"{column}.path"], MOST_ROWS):
        yield from texts(batch.column(0).field("path"))


def stamps_of(paths: Iterable[str], reach: Reach) -> Iterator[str]:
    """What changes when one of the files does."""
    for path in paths:
        real = reach.real(path)
        yield stamp(real) if isinstance(real, Path) else "-"


def texts(paths: Any) -> list[str]:
    """Of an array, those that are paths."""
    known = pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)
    return paths.drop_null().to_pylist() if known else []


def _lacks_bytes(file: Path, column: str) -> bool:
    """Whether there may be rows that name a picture and hold none: a look at the footer spares one at the pictures."""
    found = pq.read_metadata(file)
    chunks = (found.row_group(n).column(m) for n in range(found.num_row_groups) for m in range(found.num_columns))
    leaves = [chunk for chunk in chunks if chunk.path_in_schema in (f"{column}.bytes", f"{column}.path")]
    held = [chunk.statistics for chunk in leaves if chunk.path_in_schema.endswith(".bytes")]
    named = len(held) < len(leaves)
    return named and any(one is None or not one.has_null_count or one.null_count for one in held)
