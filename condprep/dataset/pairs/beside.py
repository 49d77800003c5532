"""The pictures beside the files of a dataset, Arrow or Parquet, that its rows name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from condprep.dataset.reader import Shard, batches, is_image, schema
from condprep.dataset.remote import is_far
from condprep.errors import DatasetError
from condprep.sources.beside import parquet_paths, stamps_of, texts
from condprep.sources.reach import Reach


def stamps_beside(files: Sequence[Shard], columns: Sequence[str], reach: Reach) -> Iterator[str]:
    """What changes when a picture does that a row names in one of these columns; nothing where the pictures are in the rows.

    At a URL there are none beside. Of a file that is damaged, those before the damage.
    """
    for file in files:
        with suppress(DatasetError, pa.ArrowException, OSError):  # whoever reads the rows says so
            if not is_far(file.path):
                yield from stamps_of(_paths(file.path, columns), reach)


def _paths(file: Path, columns: Sequence[str]) -> Iterator[str]:
    pictures = [column.name for column in schema(file) if column.name in columns and is_image(column.type)]
    for name in pictures if file.suffix == ".parquet" else ():
        yield from parquet_paths(file, name)
    if pictures and file.suffix != ".parquet":
        for batch in batches(file, pictures):
            for name in pictures:
                yield from _without_bytes(batch.column(name))


def _without_bytes(pictures: pa.StructArray) -> list[str]:
    return texts(pictures.field("path").filter(pictures.field("bytes").is_null()))
