"""Faults in the other commands: no row of a finished dataset is lost for them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_from_disk
from PIL import Image
from support.datasets import tree
from support.faulty import SMALL
from support.fragile import Fragile

from condprep import add_columns, build, curate, verify
from condprep.dataset import reader
from condprep.errors import DatasetError, PassingFault, SourceError

# columns that are added


def test_what_was_begun_is_kept_by_what_was_asked(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, fragile: Fragile
) -> None:
    """`--into B` after a stopped `--into A` makes B; A goes on where it was as long as the dataset is the same."""
    from condprep.dataset.shards import ShardWriter

    fragile.limit = 99
    build(source, tmp_path / "ds", "canny", **SMALL)
    with monkeypatch.context() as patched:
        real, left = ShardWriter.commit, iter([True, True])

        def commit(self: ShardWriter) -> None:
            if not next(left, False):
                raise KeyboardInterrupt
            real(self)

        patched.setattr(ShardWriter, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            add_columns(tmp_path / "ds", "canny:random")
        left = iter([True])
        with pytest.raises(KeyboardInterrupt):
            add_columns(tmp_path / "ds", "fragile")
    assert "canny_random" not in load_from_disk(str(tmp_path / "ds"))["train"].column_names
    result = add_columns(tmp_path / "ds", "canny:random")
    assert result.resumed == 11
    assert not list((tmp_path / "ds" / ".condprep").glob("into*"))


def test_a_damaged_row_of_the_dataset_is_not_dropped(tmp_path: Path, source: Path, fragile: Fragile) -> None:
    """Its picture cannot be decoded: the command fails, and the dataset is as it was."""
    import pyarrow as pa

    fragile.limit = 99
    build(source, tmp_path / "ds", "canny", resolution=64, shard_rows=20, format="parquet")
    (path,) = (tmp_path / "ds" / "data").iterdir()
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[3]["image"]["bytes"] = b"broken"
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    before = tree(tmp_path / "ds")
    with pytest.raises(DatasetError, match=r"row '03.png' cannot be read.*the dataset stays as it is"):
        add_columns(tmp_path / "ds", "fragile")
    shutil.rmtree(tmp_path / "ds" / ".condprep" / "into")
    assert tree(tmp_path / "ds") == before


# the other commands


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[OSError]]:
    """An error that reading the dataset's second file gives, once there is one."""
    import pyarrow as pa

    errors: list[OSError] = []
    real = pa.memory_map

    def mapped(path: str, *more: Any) -> Any:
        if errors and "00001-of" in path:
            raise errors[0]
        return real(path, *more)

    monkeypatch.setattr(reader.pa, "memory_map", mapped)
    return errors  # type: ignore[return-value]


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, PassingFault), (errno.EACCES, SourceError)])
def test_a_file_that_cannot_be_read_is_not_damaged(
    tmp_path: Path, source: Path, refused: list[OSError], number: int, kind: type[Exception]
) -> None:
    """One of three files: neither verify nor curate takes the others for the dataset."""
    build(source, tmp_path / "ds", "canny", **SMALL)
    refused.append(OSError(number, os.strerror(number)))
    with pytest.raises(kind, match=os.strerror(number)):
        verify(tmp_path / "ds", checks=["structure"], scores=tmp_path / "scores.parquet")
    with pytest.raises(kind, match=os.strerror(number)):
        curate(tmp_path / "ds", tmp_path / "curated", fix=True)
    refused.clear()
    assert curate(tmp_path / "ds", tmp_path / "curated", "unreadable").rows == {"train": 12}


def test_one_lack_of_memory_drops_no_row_of_curate(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that is made again is made once there is memory; where there is none, curate ends, and goes on later."""
    from condprep.curation import repairs

    build(source, tmp_path / "ds", "canny", **SMALL)
    (path,) = sorted((tmp_path / "ds" / "train").glob("*-00000-of-*.arrow"))
    import io

    import pyarrow as pa

    table = pa.ipc.open_stream(path).read_all()
    rows, stream = table.to_pylist(), io.BytesIO()
    Image.fromarray(255 - np.asarray(Image.open(io.BytesIO(rows[2]["conditioning_image"]["bytes"])).convert("L"))).save(
        stream, "PNG"
    )
    rows[2]["conditioning_image"]["bytes"] = stream.getvalue()
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, table.schema))
    real, left = repairs.decode, iter([True] * 1000)

    def decode(*arguments: Any, **more: Any) -> Any:
        if next(left, False):
            raise MemoryError
        return real(*arguments, **more)

    monkeypatch.setattr(repairs, "decode", decode)
    with pytest.raises(PassingFault, match="row 2: there is not enough memory"):
        curate(tmp_path / "ds", tmp_path / "curated", fix=True)
    left = iter([True])
    result = curate(tmp_path / "ds", tmp_path / "curated", fix=True)
    assert (result.rows, result.repaired) == ({"train": 12}, {"map made again": 1})
