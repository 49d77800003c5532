"""A finished dataset at a URL that is changed: what comes out is what comes out in a folder, whatever stops or fails, and until
all of it is there the dataset is the one that it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image
from support import cluster_here
from support.command import Command
from support.datasets import OFFLINE, tree
from support.pictures import smooth
from support.s3_server import BUCKET, S3Server

import condprep
from condprep.dataset import exchange
from condprep.dataset.inspect import summarize
from condprep.errors import DatasetError, UsageError
from condprep.runtime import upload

URL, PREFIX = "memory://bucket/ds", "/bucket/ds/"
HOW: dict[str, Any] = {"resolution": 64, "shard_rows": 3, "validation": 0.3, "workers": 1}
BROKEN = "04.png"


def into(_: Path, ds: str, **more: Any) -> Any:
    return condprep.add_columns(ds, "canny:random", workers=1, **more)


def divide(_: Path, ds: str, **more: Any) -> Any:
    return condprep.split(ds, 0.6, **more)


def append(raw: Path, ds: str, **more: Any) -> Any:
    picture(raw, 3, seed=103)
    picture(raw, 40)
    (raw / "07.png").unlink(missing_ok=True)
    return condprep.build(raw, ds, "canny", append=True, **HOW, **more)


def renew(raw: Path, ds: str, **more: Any) -> Any:
    return append(raw, ds, replace=True, **more)


def retry(raw: Path, ds: str, **more: Any) -> Any:
    picture(raw, 4)
    return condprep.build(raw, ds, "canny", retry_rejects="all", **HOW, **more)


CHANGES = (into, divide, append, renew, retry)
BY_TIME = {
    *(f".condprep/{name}" for name in ("plan.json", "plan.parquet", "split.json")),
    "train/state.json",
    "validation/state.json",
}


def picture(raw: Path, number: int, seed: int | None = None) -> None:
    """Of a time that is always the same: plans have it."""
    path = raw / f"{number:02d}.png"
    Image.fromarray(smooth(64, 64, number if seed is None else seed)).save(path)
    time = 1_700_000_000 + number + (seed or 0)
    os.utime(path, (time, time))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small pictures and a broken one, in `raw`, and the dataset of them in `ds`."""
    folder = tmp_path_factory.mktemp("before")
    (folder / "raw").mkdir()
    for number in range(9):
        picture(folder / "raw", number, seed=number % 8)
    (folder / "raw" / BROKEN).write_bytes(b"no picture")
    condprep.build(folder / "raw", folder / "ds", "canny", **HOW)
    return folder


@pytest.fixture(scope="module")
def changed(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], dict[str, bytes]]:
    """What a change makes of the dataset in a folder."""
    made: dict[Any, dict[str, bytes]] = {}

    def known(change: Any) -> dict[str, bytes]:
        if change not in made:
            place = Path(shutil.copytree(before, tmp_path_factory.mktemp("changed") / "place"))
            change(place / "raw", place / "ds")
            made[change] = same(tree(place / "ds"), change)
        return made[change]

    return known


def same(files: dict[str, bytes], change: Any) -> dict[str, bytes]:
    """What does not depend on when the files of the dataset were written, which is a part of some plans."""
    return {name: data for name, data in files.items() if name not in BY_TIME or change not in (into, divide)}


class Writes:
    """Counts requests that write, and stops before one of them."""

    def __init__(self) -> None:
        self.count, self._write, self._stop = 0, upload._write, 0

    def stop_at(self, number: int) -> None:
        self.count, self._stop = 0, number

    def __call__(self, place: Any, do: Any) -> Any:
        self.count += 1
        if self.count == self._stop:
            self._stop = 0
            raise KeyboardInterrupt
        return self._write(place, do)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    found = Writes()
    monkeypatch.setattr(upload, "_write", found)
    return found


@pytest.fixture
def raw(before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pictures, and in the store the dataset of them; a cache of its own."""
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    put_dataset(before)
    return Path(shutil.copytree(before / "raw", tmp_path / "raw"))


def put_dataset(before: Path) -> None:
    files = fsspec.filesystem("memory")
    files.store.clear()
    for name, data in tree(before / "ds").items():
        files.pipe_file(PREFIX + name, data)


def there() -> dict[str, bytes]:
    """What is in the store."""
    store = fsspec.filesystem("memory").store
    return {name.removeprefix(PREFIX): file.getvalue() for name, file in store.items() if name.startswith(PREFIX)}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_it_is_what_it_is_in_a_folder(
    before: Path, raw: Path, changed: Callable[[Any], dict[str, bytes]], change: Any, writes: Writes
) -> None:
    """Byte for byte, and no object more; it can be read by its URL, and the same call again changes nothing. Whatever request is the
    last one of a run that is stopped: until the commit the dataset has its bytes, from then on it is not read before its end, and
    the same call makes the same bytes."""
    result, old, kinds = change(raw, URL), tree(before / "ds"), set[str]()
    assert same(there(), change) == changed(change)
    assert result.url == URL
    assert summarize(URL).rows == result.rows
    after, count = there(), writes.count
    change(raw, URL)
    assert there() == after
    for third in range(4):
        put_dataset(before)
        writes.stop_at(1 + third * (count - 1) // 3)
        with pytest.raises(KeyboardInterrupt):
            change(raw, URL)
        kinds.add(state := "changing" if ".condprep/exchange.json" in there() else "old or new")
        if state == "changing":
            with pytest.raises(DatasetError, match="is being changed"):
                summarize(URL)
        else:
            assert there().items() >= old.items() or same(there(), change).items() >= changed(change).items()
        change(raw, URL, break_lock=True)
        assert same(there(), change) == changed(change)
    assert kinds == {"changing", "old or new"}


def test_what_is_built_is_not_built_again(raw: Path, writes: Writes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns whose shards have arrived: the next run, also on another machine, sends none of them again. Other columns that were
    begun meanwhile take nothing from it."""
    writes.stop_at(9)
    with pytest.raises(KeyboardInterrupt):
        into(raw, URL)
    begun = {name for name in there() if "/shards/" in name and name.endswith(".json")}
    assert begun
    monkeypatch.setenv("CONDPREP_CACHE", str(raw.parent / "another machine"))
    writes.stop_at(5)
    with pytest.raises(KeyboardInterrupt):
        condprep.add_columns(URL, "gray", workers=1, break_lock=True)
    assert begun < there().keys()
    assert into(raw, URL, break_lock=True).resumed >= 3
    assert not any("/into" in name for name in there())


def test_a_cluster_tries_rejects_again(
    before: Path, raw: Path, changed: Callable[[Any], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nodes build by the plan with the inputs as they are now, and the dataset keeps its own until all is there: a driver that
    dies in between has changed nothing, and whoever makes the call again, here or there, builds nothing twice."""
    cluster_here.install(monkeypatch)
    was = there()
    with monkeypatch.context() as patched:
        patched.setattr(exchange, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            retry(raw, URL, engine="ray")
    assert {name: data for name, data in there().items() if name in was and "lock" not in name} == was
    assert retry(raw, URL, break_lock=True).resumed == 9
    assert same(there(), retry) == changed(retry)
    put_dataset(before)
    assert retry(raw, URL, engine="ray").resumed == 6
    assert same(there(), retry) == changed(retry)


def test_a_dataset_that_is_changed_is_nobody_elses(raw: Path) -> None:
    """A second change, and a build, are refused for as long; what is no finished dataset is said to be none."""
    files = fsspec.filesystem("memory")
    owner = {"host": "elsewhere", "pid": 7, "token": "another", "since": "2026-01-01 10:00:00 UTC"}
    files.pipe_file(f"{PREFIX}.condprep/lock.json", json.dumps(owner).encode())
    was = there()
    for change in CHANGES:
        with pytest.raises(DatasetError, match=r"is being built by process 7 on elsewhere.*break_lock=True"):
            change(raw, URL)
    assert there() == was
    for wrong in (into, divide):
        with pytest.raises(UsageError, match="is no finished dataset of condprep"):
            wrong(raw, "memory://bucket/nothing")


def test_files_of_others_stay(raw: Path) -> None:
    """What lies beside the dataset, and in its folders, is there afterwards as before."""
    files = fsspec.filesystem("memory")
    own = {"thesis.tex": b"years of work", "train/notes.txt": b"more of it"}
    for name, data in own.items():
        files.pipe_file(PREFIX + name, data)
    divide(raw, URL)
    assert there().items() >= own.items()


def test_curate_and_merge_write_to_urls(before: Path, raw: Path, tmp_path: Path, writes: Writes) -> None:
    """A curated dataset and a merged one are those of a folder; stopped, they go on from the shards that have arrived."""
    local = condprep.curate(before / "ds", tmp_path / "curated", "duplicates", workers=1, weights=OFFLINE)
    assert local.dropped
    for makes, folder in (
        (lambda out, **more: condprep.curate(URL, out, "duplicates", workers=1, weights=OFFLINE, **more), "curated"),
        (lambda out, **more: condprep.merge([URL, before / "ds"], out, **more), "merged"),
    ):
        if folder == "merged":
            condprep.merge([before / "ds", before / "ds"], tmp_path / "merged")
        writes.stop_at(9)
        with pytest.raises(KeyboardInterrupt):
            makes("memory://bucket/out")
        result = makes("memory://bucket/out", break_lock=True)
        assert result.resumed >= 3
        assert result.url == "memory://bucket/out"
        store = fsspec.filesystem("memory").store
        made = {name.removeprefix("/bucket/out/"): file.getvalue() for name, file in store.items() if "/out/" in name}
        rows = {
            name: data for name, data in tree(tmp_path / folder).items() if not name.endswith((".json", ".parquet"))
        }
        assert made.items() >= rows.items()
        assert made.keys() == tree(tmp_path / folder).keys()
        fsspec.filesystem("memory").rm("/bucket/out", recursive=True)
        with pytest.raises(UsageError, match="lies inside"):
            makes(f"{URL.rpartition('/')[0]}")


@pytest.mark.slow
def test_faults_of_s3_lose_and_double_nothing(
    before: Path, raw: Path, changed: Callable[[Any], dict[str, bytes]], s3: S3Server
) -> None:
    """One request in ten fails, by every kind of fault: what comes out is the same."""
    for change in (renew, into, retry):
        prefix = change.__name__
        s3.upload(before / "ds", prefix)
        s3.delete(f"{prefix}/.condprep/lock")
        s3.fail(rate=0.1, seed=3, kinds=("500", "503", "reset"))
        shutil.rmtree(raw)
        shutil.copytree(before / "raw", raw)
        change(raw, f"s3://{BUCKET}/{prefix}")
        faults = [one for one in s3.log() if one["fault"]]
        s3.fail()
        assert faults
        made = {key.removeprefix(f"{prefix}/"): s3.get(key) for key in s3.keys(f"{prefix}/")}
        assert same(made, change) == changed(change)


def test_commands_take_urls(raw: Path, command: Command) -> None:
    """`build --into`, `split` and `merge` by their options; what they print names the URL."""
    for arguments in (
        ("build", URL, "--into", "-a", "canny:random"),
        ("split", URL, "--validation", 0.6),
        ("merge", URL, URL, "--out", "memory://bucket/twice", "--break-lock"),
    ):
        ended = command(*arguments)
        assert (ended.code, ended.err.count("Traceback")) == (0, 0)
        assert "memory://bucket/" in ended.out
