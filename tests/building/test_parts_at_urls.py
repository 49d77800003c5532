"""Parts of a build at a URL: the same bytes as in a folder, whoever dies, and nobody in somebody's way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.datasets import tree
from support.faulty import FIVE_SHARDS as SMALL
from support.s3_server import BUCKET, S3Server

import condprep
from condprep import build
from condprep.building import plan_by_one
from condprep.dataset.claims import LOCK, PARTS, PLANNING, Claims
from condprep.errors import BuildFailed, DatasetError, UsageError
from condprep.runtime.progress import Progress
from condprep.runtime.storage import place

URL, PREFIX = "memory://bucket/ds", "/bucket/ds/"
ELSEWHERE = {"host": "elsewhere", "pid": 7, "token": "another", "since": "2026-01-01 10:00:00 UTC"}


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the store, and a cache of its own."""
    fsspec.filesystem("memory").store.clear()
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))


def there() -> dict[str, bytes]:
    """What is in the store."""
    store = fsspec.filesystem("memory").store
    return {name.removeprefix(PREFIX): file.getvalue() for name, file in store.items() if name.startswith(PREFIX)}


def put(name: str, owner: dict[str, Any]) -> None:
    fsspec.filesystem("memory").pipe_file(f"{PREFIX}{name}", json.dumps(owner).encode())


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_parts_in_any_order_make_the_bytes_of_one_build(
    few: Path, whole: dict[str, bytes], tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each on a machine of its own: whoever comes first writes the plan, twice changes nothing, and what a part fetches are its own
    shards; who finishes does so on another machine."""
    options = SMALL | {"format": form}
    for number in (2, 0, 1, 1):
        monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / f"machine{number}"))
        result = build(few, URL, "canny", part=(number, 3), **options)
        assert (result.part, result.inputs) == (f"{number}/3", {0: 4, 1: 3, 2: 2}[number])
    assert result.resumed == 3
    assert len(list(result.path.glob(".condprep/shards/*"))) == 2
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "another"))
    finished = condprep.finish(URL)
    assert (finished.part, finished.inputs, finished.rejects, finished.url) == (None, 9, {"empty": 1}, URL)
    if form == "parquet":
        build(few, tmp_path / "whole", "canny", **options)
        whole = tree(tmp_path / "whole")
    assert there() == whole
    assert condprep.finish(URL).rows == finished.rows
    assert build(few, URL, "canny", part="0/3", **options).inputs == 9
    assert there() == whole


def test_an_ordinary_build_goes_on_where_parts_stopped(few: Path, whole: dict[str, bytes]) -> None:
    """What parts have built it need not build again, and nothing of them is left."""
    build(few, URL, "canny", part="1/2", **SMALL)
    assert build(few, URL, "canny", **SMALL).resumed == 4
    assert there() == whole


def test_a_finish_that_is_too_early_names_what_is_missing_and_changes_nothing(few: Path) -> None:
    """Which shards, and which parts they belong to; where nothing was begun, that."""
    with pytest.raises(UsageError, match=f"no build was begun at {URL}"):
        condprep.finish(URL)
    assert there() == {}
    build(few, URL, "canny", part="0/3", **SMALL)
    before = there()
    with pytest.raises(BuildFailed, match=rf"3 of the 5 shards of {URL} .*: 1, 2, 4; run --part 1/3, 2/3 again"):
        condprep.finish(URL)
    assert there() == before


@pytest.mark.parametrize(
    ("held", "asked", "says"),
    [
        (f"{PARTS}/0-of-3.json", None, r"ds \(part 0/3\) is being built by process 7 on elsewhere"),
        (f"{PARTS}/0-of-3.json", "0/3", r"ds \(part 0/3\) is being built by process 7 on elsewhere"),
        (f"{PARTS}/0-of-3.json", "1/4", r"ds \(part 0/3\) is being built by process 7 on elsewhere"),
        (LOCK, "0/3", "ds is being built by process 7 on elsewhere"),
    ],
)
def test_who_would_be_in_the_way_is_refused(few: Path, held: str, asked: str | None, says: str) -> None:
    """A build beside parts, the same part twice, another division, and a part beside a build; --break-lock takes over, and a
    process of this machine that has ended is in nobody's way."""
    put(held, ELSEWHERE)
    with pytest.raises(DatasetError, match=f"{says} since 2026-01-01.*break_lock=True"):
        build(few, URL, "canny", part=asked, **SMALL)
    assert list(there()) == [held]
    put(held, {**ELSEWHERE, "host": socket.gethostname(), "pid": 2**22 - 1})
    build(few, URL, "canny", part=asked, **SMALL)
    put(held, ELSEWHERE)
    build(few, URL, "canny", part=asked, break_lock=True, **SMALL)


def test_finish_beside_a_part_is_refused(few: Path, whole: dict[str, bytes]) -> None:
    """Nothing is put in its place while somebody builds."""
    build(few, URL, "canny", part="0/1", **SMALL)
    put(f"{PARTS}/0-of-1.json", ELSEWHERE)
    with pytest.raises(DatasetError, match=r"\(part 0/1\) is being built by process 7"):
        condprep.finish(URL)
    condprep.finish(URL, break_lock=True)
    assert there() == whole


def test_files_of_others_are_not_touched(few: Path) -> None:
    """A part leaves nothing where condprep has not built."""
    fsspec.filesystem("memory").pipe_file(f"{PREFIX}thesis.tex", b"years of work")
    with pytest.raises(DatasetError, match="not made by condprep"):
        build(few, URL, "canny", part="0/2", **SMALL)
    assert there() == {"thesis.tex": b"years of work"}


def test_who_waits_for_the_plan_hears_of_it_and_goes_on(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that writes the plan says how far it is; when it is gone, the next one writes it. One that says nothing new is named."""
    put(PLANNING, ELSEWHERE | {"said": "process 7 on elsewhere: 78000"})
    seen = list[Progress]()
    files = fsspec.filesystem("memory")
    monkeypatch.setattr(plan_by_one, "pause", lambda _: files.rm_file(f"{PREFIX}{PLANNING}"))
    assert build(few, URL, "canny", part="0/2", progress=seen.append, **SMALL).inputs == 5
    assert seen[0] == Progress("wait", 78_000, None)
    assert PLANNING not in there()
    files.store.clear()
    put(PLANNING, ELSEWHERE)
    monkeypatch.setattr(plan_by_one, "PATIENCE", -1)
    monkeypatch.setattr(plan_by_one, "pause", lambda _: None)
    with pytest.raises(BuildFailed, match=rf"plan of {URL} does not come: process 7 on elsewhere: 0 .*remove {URL}/"):
        build(few, URL, "canny", part="0/2", **SMALL)


def test_a_plan_that_another_part_has_written_is_taken(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While this part waits the plan comes: it lists nothing into a plan of its own."""
    build(few, "memory://bucket/other", "canny", part="1/2", **SMALL)
    put(PLANNING, ELSEWHERE)
    files = fsspec.filesystem("memory")

    def comes(_: float) -> None:
        for name in ("plan.parquet", "plan.json"):
            files.cp_file(f"/bucket/other/.condprep/{name}", f"{PREFIX}.condprep/{name}")

    monkeypatch.setattr(plan_by_one, "pause", comes)
    seen = list[Progress]()
    assert build(few, URL, "canny", part="0/2", progress=seen.append, **SMALL).inputs == 5
    assert "list" not in {state.stage for state in seen}


def test_how_far_a_plan_is_costs_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said every ten seconds at most, and not for every picture."""
    claims = Claims(place(URL))  # type: ignore[arg-type]
    with claims.planning() as say:
        say("process 1 on here: 5")
        assert claims.said().endswith(": 0")
        monkeypatch.setattr("condprep.dataset.claims.SAYS", -1.0)
        say("process 1 on here: 6")
        assert claims.said() == "process 1 on here: 6"
    assert there() == {}


@pytest.mark.slow
def test_killed_at_random_the_parts_make_the_bytes_of_one_build(
    few: Path, whole: dict[str, bytes], tmp_path: Path, s3: S3Server
) -> None:
    """Three processes on one S3 die by SIGKILL at random requests that write, again and again, and so does who finishes: the dataset is
    that of an undisturbed build in a folder, and nothing else is left."""
    tests = Path(__file__).parents[1]
    url = f"s3://{BUCKET}/killed"
    program = [sys.executable, tests / "support" / "chaos_at_urls.py", few, url, "0", "12"]
    paths = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ends"] == [0], done.stderr
    assert report["kills"] >= 12
    for number in range(report["builds"]):
        assert {name: s3.get(f"killed/{number}/{name}") for name in whole} == whole
        assert s3.keys(f"killed/{number}/") == {f"killed/{number}/{name}" for name in whole}
