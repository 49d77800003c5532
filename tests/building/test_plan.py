"""The plan on disk: a row group a shard, a few hundred shards a file, and a seal that saves listing the source again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tars import tar

from condprep.building import plan
from condprep.building.plan import SCHEMA, check_inputs, make_plan
from condprep.errors import DatasetError
from condprep.sources.base import Sealed, unsaid
from condprep.sources.open import open_source
from condprep.types import Entry, Note

MOST = 2**20  # rows of a row group where pyarrow is not told otherwise


class Listing:
    """A source that lists one input more than fits into a row group by itself."""

    def entries(self, note: Note) -> Iterator[Entry]:
        return repeat(Entry("1.png", "1"), MOST + 1)


class Tars:
    """A source with a seal, that counts how often it is listed."""

    def __init__(self, names: Sequence[str], seal: str = "one") -> None:
        self.names, self._seal, self.listings = names, seal, 0

    def seal(self) -> str:
        return self._seal

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        self.listings += 1
        return (Entry(name, "1", number, 5, ("text",) * (number % 3)) for number, name in enumerate(self.names))


def empty(rows: Sequence[object]) -> pa.RecordBatch:
    """As many rows, with nothing in them: to fill a million, and to sum them up, is nearly all of the time, and tested elsewhere."""
    return pa.RecordBatch.from_arrays([pa.nulls(len(rows), field.type) for field in SCHEMA], schema=SCHEMA)


def test_a_shard_is_a_row_group_however_many_inputs_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shard holds is read back as one row group: a shard of more than 2**20 inputs loses none of them."""
    monkeypatch.setattr(plan, "_batch", empty)
    monkeypatch.setattr(plan, "add_to_digest", lambda digest, entry: None)
    made = make_plan(tmp_path, Listing(), {}, shard_rows=2 * MOST, seen=lambda _: None)  # type: ignore[arg-type]
    stored = pq.ParquetFile(tmp_path / "plan.parquet").metadata
    assert (made.shards, stored.num_row_groups) == (1, 1)
    assert made.rows(0) == stored.row_group(0).num_rows == MOST + 1


def test_shards_beyond_those_of_a_file_are_in_further_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many shards there are, the footer that one of them needs does not grow; every input is read back as it was."""
    monkeypatch.setattr(plan, "SHARDS", 3)
    source = Tars([f"{number}.png" for number in range(23)])
    made = make_plan(tmp_path, source, {}, shard_rows=2, seen=lambda _: None)  # type: ignore[arg-type]
    files = sorted(path.name for path in tmp_path.glob("*.parquet"))
    assert files == ["plan-00001.parquet", "plan-00002.parquet", "plan-00003.parquet", "plan.parquet"]
    assert [pq.read_metadata(tmp_path / name).num_row_groups for name in files] == [3, 3, 3, 3]
    assert [entry for shard in range(made.shards) for entry in made.entries(shard)] == [*source.entries()]


def test_a_source_with_the_same_seal_is_not_listed_again(tmp_path: Path) -> None:
    """Going on costs no listing where the seal says that nothing changed; where it is another, the listing decides."""
    source = Tars(["1.png", "2.png"])
    made = make_plan(tmp_path, source, {}, shard_rows=2, seen=lambda _: None)  # type: ignore[arg-type]
    check_inputs(made, source)  # type: ignore[arg-type]
    assert source.listings == 1
    copied = Tars(["1.png", "2.png"], "of a copy")
    check_inputs(made, copied)  # type: ignore[arg-type]
    assert copied.listings == 1
    with pytest.raises(DatasetError, match=r"1 gone \('2.png'\)"):
        check_inputs(made, Tars(["1.png"], "of others"))  # type: ignore[arg-type]
    (tmp_path / "seal.json").write_text("{")
    check_inputs(made, source)  # type: ignore[arg-type]
    assert source.listings == 2


def test_a_seal_of_another_plan_says_nothing(tmp_path: Path) -> None:
    """It is that of the listing that the plan has, whenever the writing was stopped."""
    source = Tars(["1.png"])
    before = make_plan(tmp_path, source, {}, shard_rows=2, seen=lambda _: None)  # type: ignore[arg-type]
    make_plan(tmp_path, Tars(["2.png"]), {}, shard_rows=2, seen=lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="changed since"):
        check_inputs(before, Tars(["2.png"]))  # type: ignore[arg-type]


def test_a_tar_of_the_same_size_and_time_has_another_seal(tmp_path: Path) -> None:
    """Who exchanges a file can give it the time of the other; the seal is another all the same."""
    path = tmp_path / "a.tar"
    path.write_bytes(tar(("1.jpg", b"one")))
    source = open_source(path)
    assert isinstance(source, Sealed)
    before, times = source.seal(), path.stat()
    assert source.seal() == before
    path.write_bytes(tar(("2.jpg", b"two")))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    while path.stat().st_ctime_ns == times.st_ctime_ns:  # a file system's clock ticks some hundred times a second
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    assert source.seal() != before
