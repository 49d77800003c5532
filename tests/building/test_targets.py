"""Builds whose dataset goes to a URL: the same bytes as in a folder, whatever fails, and nothing that is read before its end."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.command import Command
from support.datasets import tree
from support.s3_server import BUCKET, S3Server
from support.thorough import slow_ones

import condprep
from condprep.building import plan
from condprep.building.result import BuildResult
from condprep.dataset import target
from condprep.dataset.inspect import summarize
from condprep.engines import commits
from condprep.errors import DatasetError, StorageFault, TargetFault, UsageError
from condprep.runtime import upload
from condprep.runtime.progress import Progress

URL, PREFIX = "memory://bucket/ds", "/bucket/ds/"
HOW: dict[str, Any] = {"resolution": 64, "validation": 0.3, "shard_rows": 4}


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the store, and a cache of its own."""
    fsspec.filesystem("memory").store.clear()
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def local(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """The files of the same dataset in a folder."""
    made: dict[str, dict[str, bytes]] = {}

    def build(form: str = "arrow") -> dict[str, bytes]:
        if form not in made:
            out = tmp_path_factory.mktemp("local") / "ds"
            condprep.build(photographs, out, "canny", format=form, **HOW)
            made[form] = tree(out)
        return made[form]

    return build


def there() -> dict[str, bytes]:
    """What is in the store."""
    store = fsspec.filesystem("memory").store
    return {name.removeprefix(PREFIX): file.getvalue() for name, file in store.items() if name.startswith(PREFIX)}


def build(source: Path, out: str = URL, **options: Any) -> BuildResult:
    return condprep.build(source, out, "canny", **{**HOW, **options})


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_the_dataset_is_that_of_a_folder(
    photographs: Path, local: Callable[[str], dict[str, bytes]], form: str
) -> None:
    """Byte for byte, and no file more; the same call again does nothing; it is opened by its URL."""
    first = build(photographs, format=form)
    assert there() == local(form)
    assert first.url == URL
    again = build(photographs, format=form)
    assert (again.resumed, again.rows, again.rejects) == (first.inputs, first.rows, first.rejects)
    assert there() == local(form)
    assert summarize(URL).rows == first.rows


def test_a_plan_of_several_files_goes_on(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files of a plan are at the URL before its first shard, and are fetched by who goes on."""
    monkeypatch.setattr(plan, "SHARDS", 1)
    condprep.build(photographs, tmp_path / "ds", "canny", **HOW)

    def stop(state: Progress) -> None:
        if (state.stage, state.done) == ("build", 6):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(photographs, progress=stop)
    assert {".condprep/plan.parquet", ".condprep/plan-00001.parquet", ".condprep/plan-00002.parquet"} <= there().keys()
    assert build(photographs).resumed == 6
    assert there() == tree(tmp_path / "ds")


def test_the_working_folder_stays_small(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are here only until their shard has arrived: those of the shard that is written, and of the ones that are being sent."""
    held: list[int] = []
    send = upload.send

    def sent(path: Path, place: Any) -> None:
        shards = set()
        for folder, _, names in os.walk(tmp_path / "cache" / "targets"):  # which passes over what is renamed meanwhile
            for name in names if Path(folder).parent.name == "shards" else ():
                with suppress(FileNotFoundError):
                    if name.endswith(".arrow") and os.stat(f"{folder}/{name}").st_blocks:
                        shards.add(Path(folder).stem)
        held.append(len(shards))
        send(path, place)

    monkeypatch.setattr(target, "send", sent)
    build(photographs, shard_rows=1)
    assert max(held) <= 1 + commits.AT_ONCE


def test_a_shard_is_sent_while_the_next_one_is_built(
    photographs: Path, local: Callable[[str], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is slow stops nobody: here it takes the first shard only when the second one is on its way."""
    send, second = upload.send, threading.Event()

    def sent(path: Path, place: Any) -> None:
        if "shards/000001" in str(place):
            second.set()
        if "shards/000000" in str(place):
            assert second.wait(600)
        send(path, place)

    monkeypatch.setattr(target, "send", sent)
    build(photographs)
    assert there() == local("arrow")


@pytest.mark.parametrize(
    "stopped_at", [*range(1, 34, 9), *slow_ones(stop for stop in range(1, 34, 3) if stop % 9 != 1)]
)
def test_a_stopped_build_goes_on(
    photographs: Path, local: Callable[[str], dict[str, bytes]], stopped_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was the last thing that was written: before the end nobody takes it for a dataset, and the same call makes the same
    bytes, without sending again a shard that was committed."""
    written, sent, stopped = 0, Counter[str](), list[int]()
    write = upload._write

    def counted(place: Any, do: Any) -> Any:
        nonlocal written
        written += 1
        if written == stopped_at and not stopped:
            stopped.append(written)
            raise KeyboardInterrupt
        done = write(place, do)
        sent[str(place)] += (
            place.name.endswith(".json") and "/shards/" in str(place) and "rm_file" not in do.__code__.co_names
        )
        return done

    monkeypatch.setattr(upload, "_write", counted)
    with pytest.raises(KeyboardInterrupt):
        build(photographs)
    before = there()
    rows = {name for name in local("arrow") if name.endswith(".arrow")}
    assert ".condprep/done.json" not in before or before.items() >= local("arrow").items()
    assert "dataset_dict.json" not in before or rows <= before.keys()
    build(photographs, break_lock=True)
    assert there() == local("arrow")
    assert max(sent.values()) == 1


def test_faults_of_the_store_lose_and_double_nothing(
    photographs: Path, local: Callable[[str], dict[str, bytes]], s3: S3Server
) -> None:
    """S3 fails one request in ten, by every kind of fault: the dataset is the same."""
    s3.fail(rate=0.1, seed=5, kinds=("500", "503", "reset"))
    build(photographs, f"s3://{BUCKET}/faulty")
    assert any(one["fault"] for one in s3.log())
    s3.fail()
    assert {name: s3.get(f"faulty/{name}") for name in local("arrow")} == local("arrow")
    assert summarize(f"s3://{BUCKET}/faulty").files == sum(name.endswith(".arrow") for name in local("arrow"))


@pytest.mark.parametrize("code", ["ExpiredToken", *slow_ones(["AccessDenied"])])
def test_credentials_that_end_in_the_middle(
    photographs: Path,
    local: Callable[[str], dict[str, bytes]],
    s3: S3Server,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The build stops at once and says it in a line; with new ones the same call goes on from the shards that were committed."""
    monkeypatch.setattr(commits, "AT_ONCE", 1)  # else the third shard may have been committed
    url = f"s3://{BUCKET}/{code}"
    s3.fail(refuse=code, only="shards/000001")
    with pytest.raises((TargetFault, StorageFault), match="may not be written"):
        build(photographs, url)
    s3.fail()
    assert build(photographs, url).resumed == 4
    assert {name: s3.get(f"{code}/{name}") for name in local("arrow")} == local("arrow")


def test_a_bucket_that_is_not_there(photographs: Path, s3: S3Server) -> None:
    """It is said before anything is read, with what to do."""
    with pytest.raises(TargetFault, match="no such bucket"):
        build(photographs, "s3://nothing-of-this-name/ds")


def lock_of(host: str, pid: int) -> None:
    owner = {"host": host, "pid": pid, "token": "another", "since": "2026-01-01 10:00:00 UTC"}
    fsspec.filesystem("memory").pipe_file(f"{PREFIX}.condprep/lock.json", json.dumps(owner).encode())


def test_two_builds_of_one_target_are_refused(photographs: Path) -> None:
    """The second says who builds, where and since when; --break-lock takes over, and a process that has ended needs none."""
    for host, pid in (("elsewhere", 7), (socket.gethostname(), os.getpid())):
        lock_of(host, pid)
        with pytest.raises(DatasetError, match=f"process {pid} on {host} since 2026-01-01.*break_lock=True"):
            build(photographs)
    assert list(there()) == [".condprep/lock.json"]
    lock_of("elsewhere", 7)
    assert build(photographs, break_lock=True).rows
    lock_of(socket.gethostname(), 2**22 - 1)
    build(photographs)
    assert ".condprep/lock.json" not in there()


def test_a_build_beside_another_one_at_s3_is_refused(
    photographs: Path,
    local: Callable[[str], dict[str, bytes]],
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second machine, with a cache of its own, is told who builds and leaves nothing; the first one's dataset is whole."""
    url, told = f"s3://{BUCKET}/two", list[str]()

    def second(_: Progress) -> None:
        if not told:
            with monkeypatch.context() as machine:
                machine.setenv("CONDPREP_CACHE", str(tmp_path / "second"))
                with pytest.raises(DatasetError) as refused:
                    build(photographs, url)
            told.append(str(refused.value))

    build(photographs, url, progress=second)
    assert f"process {os.getpid()} on {socket.gethostname()} since" in told[0]
    assert s3.keys("two/") == {f"two/{name}" for name in local("arrow")}
    assert {name: s3.get(f"two/{name}") for name in local("arrow")} == local("arrow")


def test_files_of_others_are_not_touched(photographs: Path, local: Callable[[str], dict[str, bytes]]) -> None:
    """A target that condprep did not make is refused, also with --overwrite; --overwrite of ours leaves what is not ours."""
    files = fsspec.filesystem("memory")
    files.pipe_file(f"{PREFIX}thesis.tex", b"years of work")
    for overwrite in (False, True):
        with pytest.raises(DatasetError, match="not made by condprep"):
            build(photographs, overwrite=overwrite)
    assert there() == {"thesis.tex": b"years of work"}
    files.rm_file(f"{PREFIX}thesis.tex")
    build(photographs)
    files.pipe_file(f"{PREFIX}thesis.tex", b"years of work")
    with pytest.raises(DatasetError, match=f"^{URL} was begun with other settings"):
        build(photographs, resolution=128)
    build(photographs, overwrite=True, format="parquet")
    assert there() == local("parquet") | {"thesis.tex": b"years of work"}


def test_a_manifest_without_its_rows_is_built_again(
    photographs: Path, local: Callable[[str], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removed the rows of a shard, or cut them: the shard is built again. A damaged manifest is named."""
    monkeypatch.setattr(target.Target, "place_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(photographs)
    monkeypatch.undo()
    files = fsspec.filesystem("memory")
    files.pipe_file(min(files.glob(f"{PREFIX}.condprep/shards/000000/*")), b"cut")
    files.pipe_file(f"{PREFIX}.condprep/shards/000001.json", b"{}")
    with pytest.raises(DatasetError, match=r"000001\.json is damaged"):
        build(photographs)
    files.rm_file(f"{PREFIX}.condprep/shards/000001.json")
    assert build(photographs).resumed == 4
    assert there() == local("arrow")


def test_what_cannot_be_there_says_so(photographs: Path, command: Command) -> None:
    """A repository as a target, a source inside the target: a sentence each, nothing written."""
    wrong: list[Callable[[], object]] = [
        lambda: build(photographs, "hf://datasets/user/pairs"),
        lambda: condprep.build(f"{URL}/raw", URL, "canny"),
    ]
    for call in wrong:
        with pytest.raises(UsageError, match=r"`condprep push` it|lies inside"):
            call()
    assert there() == {}
    ended = command("build", photographs, "-a", "canny", "-o", URL, "--resolution", 64)
    assert ended.code == 0
    assert URL in ended.out
