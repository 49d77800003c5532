"""Columns of datasets at URLs that are read without the pictures beside them: the same rows, for a few of the bytes."""

from __future__ import annotations

import io
import random
import shutil
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.datasets import tree

import condprep
from condprep.dataset import card, remote, shards
from condprep.dataset.inspect import summarize
from condprep.dataset.reader import batches, schema
from condprep.errors import CondprepError
from condprep.runtime import arrow_ranges
from condprep.runtime.stores import FsspecStore

KEYS = ["key", "source"]
HOW: dict[str, Any] = {"resolution": 128, "shard_rows": 20, "workers": 1}


@pytest.fixture(autouse=True)
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many bytes came of each object, by its name. The cache is empty, and no file is too small to be read in part."""
    found, read = Counter[str](), FsspecStore.read

    def counted(self: FsspecStore, path: str, start: int, end: int, mark: str | None) -> bytes:
        found[path.rpartition("/")[2]] += end - start
        return read(self, path, start, end, mark)

    monkeypatch.setattr(FsspecStore, "read", counted)
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "SMALL", 0)
    monkeypatch.setattr(arrow_ranges, "BLOCK", 1 << 12)  # as small as these files are
    fsspec.filesystem("memory").store.clear()
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of 50 kB, and datasets of them, each two files with four batches, in `arrow` and `parquet`."""
    folder, rng = tmp_path_factory.mktemp("columns"), np.random.default_rng(0)
    (folder / "raw").mkdir()
    for number in range(40):
        Image.fromarray(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(folder / f"raw/{number:02d}.png")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shards, "BATCH_ROWS", 5)
        for form in ("arrow", "parquet"):
            condprep.build(folder / "raw", folder / form, "canny", format=form, **HOW)
    return folder


def upload(folder: Path) -> str:
    """Its files in memory; their URL."""
    for name, data in tree(folder).items():
        fsspec.filesystem("memory").pipe_file(f"/bucket/{folder.name}/{name}", data)
    return f"memory://bucket/{folder.name}"


def sizes(dataset: Path) -> dict[str, int]:
    """Bytes of its files of rows."""
    return {path.name: path.stat().st_size for path in dataset.rglob("*-of-*")}


def rows(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    return [row for batch in batches(path, columns) for row in batch.to_pylist()]


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_what_is_read_is_fetched(made: Path, fetched: Counter[str], form: str) -> None:
    """Columns without pictures are those of the file on the disk, for a tenth of its bytes, once; pictures need all of it, and then
    nothing is fetched for any column."""
    root = remote.here(upload(made / form))
    path = next(path for path in sorted(root.rglob("*-of-*")))
    name, here = path.name, made / form / path.relative_to(root)
    assert schema(path).equals(schema(here), check_metadata=True)
    assert rows(path, KEYS) == rows(here, KEYS)
    known = fetched[name]
    assert 0 < known < here.stat().st_size / 10
    assert rows(path, KEYS) == rows(here, KEYS)
    assert fetched[name] == known
    assert rows(path, ["image", "key"]) == rows(here, ["image", "key"])
    assert fetched[name] == known + here.stat().st_size
    assert rows(path, ["width", "text"]) == rows(here, ["width", "text"])
    assert fetched[name] == known + here.stat().st_size


def test_a_command_fetches_the_files_that_it_writes_anew(
    made: Path, fetched: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture changed: of the other file the keys alone are fetched, but for the few pictures of the card. So it is for all files
    where nothing is to be done, and where a dataset is looked at."""
    monkeypatch.setattr(card, "_draw_preview", lambda *_: None)
    raw = Path(shutil.copytree(made / "raw", tmp_path / "raw"))
    url = upload(made / "arrow")
    limits = {name: size / 3 for name, size in sizes(made / "arrow").items()}
    first, second = sorted(limits)
    summarize(url)
    condprep.split(url, 0)
    assert all(0 < fetched[name] < limit for name, limit in limits.items())
    (raw / "00.png").write_bytes(_picture(7))
    fetched.clear()
    condprep.build(raw, url, "canny", append=True, replace=True, **HOW)
    assert fetched[first] > 3 * limits[first] > fetched[second]
    assert fetched[second] < limits[second]


def _picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def odd_table() -> pa.Table:
    """A column of every kind that a file of rows may have."""
    values: dict[str, pa.Array] = {
        "image": pa.array([{"bytes": bytes([n]) * 300, "path": None} for n in range(40)]),
        "whole": pa.array(range(40), pa.int16()),
        "yes": pa.array([n % 3 == 0 if n % 7 else None for n in range(40)]),
        "none": pa.nulls(40),
        "name": pa.array([f"name {n}" for n in range(40)], pa.large_string()),
        "lists": pa.array([[[float(n)] * (n % 3)] for n in range(40)]),
        "fixed": pa.array([b"%04d" % n for n in range(40)], pa.binary(4)),
        "price": pa.array([Decimal(n) for n in range(40)], pa.decimal128(5)),
        "day": pa.array(range(40), pa.date32()),
        "map": pa.array([{"bytes": bytes([n]) * 300, "path": None} for n in range(40)]),
        "deep": pa.array([{"a": [n], "b": {"c": str(n)}} for n in range(40)]),
    }
    return pa.table(values)


def stream_of(table: pa.Table, compression: str | None = None) -> bytes:
    made = io.BytesIO()
    with pa.ipc.new_stream(made, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as sink:
        sink.write_table(table, max_chunksize=11)
    return made.getvalue()


def placed(data: bytes, tmp_path: Path, name: str) -> tuple[Path, Path]:
    """A file of rows on the disk, and the same at a URL."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "rows.arrow").write_bytes(data)
    return tmp_path / name / "rows.arrow", remote.here(upload(tmp_path / name)) / "rows.arrow"


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_every_column_is_told_from_the_others(tmp_path: Path, fetched: Counter[str], compression: str | None) -> None:
    """Whatever its type and its neighbours': alone, and with another one, it has the values that it has in the file."""
    table = odd_table()
    here, far = placed(stream_of(table, compression), tmp_path, "odd")
    for number, column in enumerate(table.column_names):
        for columns in ([column], [table.column_names[number - 1], column]):
            assert rows(far, columns) == rows(here, columns) == table.select(columns).to_pylist()


def test_what_cannot_be_told_apart_is_fetched_whole(tmp_path: Path, fetched: Counter[str]) -> None:
    """A dictionary among the columns: the rows are right all the same."""
    table = odd_table().append_column("word", pa.array(["a", "b"] * 20).dictionary_encode())
    here, far = placed(stream_of(table), tmp_path, "dictionary")
    assert rows(far, ["whole"]) == rows(here, ["whole"])
    assert fetched["rows.arrow"] >= here.stat().st_size


def test_damage_is_what_it_is_on_a_disk(tmp_path: Path) -> None:
    """Cut anywhere, or with other bytes: the same rows come before the same sentence."""
    rng, whole = random.Random(0), stream_of(odd_table())
    kinds = Counter[str]()
    for number in range(60):
        data = bytearray(whole[: rng.randrange(len(whole))] if number % 2 else whole)
        for _ in range(0 if number % 2 else rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        here, far = placed(bytes(data), tmp_path, f"damaged-{number}")
        expected = said(here)
        assert said(far) == expected
        kinds[expected[-1][:20]] += 1
    assert len(kinds) > 2


def said(path: Path) -> list[str]:
    """The rows of a file, one by one, and what was said last."""
    found = []
    try:
        found.extend(str(batch.to_pylist()) for batch in batches(path, ["whole", "name"]))
    except CondprepError as error:
        return [*found, str(error).replace(remote.shown(path), "")]
    return [*found, "the end"]
