"""Finished datasets at URLs: what opens them finds what it finds in a folder, and writes what it writes there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from support import hub as hubs
from support.command import Command
from support.datasets import tree
from support.s3_server import S3Server

import condprep
from condprep.dataset.inspect import summarize
from condprep.dataset.remote import content, here
from condprep.errors import DatasetError, StorageFault, UsageError
from condprep.runtime.local_copies import local
from condprep.runtime.storage import is_url


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies go: an empty folder."""
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "objects"


@pytest.fixture(scope="module")
def made(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of three shards, two splits and one reject."""
    folder = tmp_path_factory.mktemp("urls")
    out = folder / "ds"
    condprep.build(photographs, out, "canny", resolution=64, validation=0.3, shard_rows=4)
    return out


Put = Callable[[Path], str]


@pytest.fixture(params=["memory", "s3", "hf"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Put]:
    """Puts a dataset where the parameter says, and tells its URL."""
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        yield lambda dataset: s3.upload(dataset, "put/ds")
    elif request.param == "memory":
        yield in_memory
    else:
        with hubs.in_use(tmp_path / "hub") as hub:

            def push(dataset: Path) -> str:
                condprep.push(dataset, "user/pairs")
                return "hf://datasets/user/pairs"

            assert hub.repos == {}
            yield push


def in_memory(dataset: Path, name: str = "bucket/ds") -> str:
    files = fsspec.filesystem("memory")
    if files.exists(f"/{name}"):
        files.rm(f"/{name}", recursive=True)
    for path, data in tree(dataset).items():
        files.pipe_file(f"/{name}/{path}", data)
    return f"memory://{name}"


@pytest.mark.slow
def test_the_same_is_found_at_a_url(put: Put, made: Path, tmp_path: Path, cache: Path) -> None:
    """inspect and verify see the same rows, findings and records as in the folder, and keep the same scores."""
    url = put(made)
    assert replace(summarize(url), path="") == replace(summarize(made), path="")
    local, far = (
        condprep.verify(where, checks=["structure"], scores=tmp_path / f"{n}.parquet")
        for n, where in enumerate((made, url))
    )
    assert (far.path, far.rows, far.findings, far.notes) == (url, local.rows, local.findings, local.notes)
    assert pq.read_table(far.scores).equals(pq.read_table(local.scores))


@pytest.mark.slow
def test_what_is_made_of_it_is_the_same(made: Path, tmp_path: Path) -> None:
    """curate copies the same rows, byte for byte (the fingerprint in state.json is of the files' times), and report shows them."""
    url = in_memory(made)
    for where, out in ((made, "a"), (url, "b")):
        condprep.curate(where, tmp_path / out, "near-duplicates")
    ours, theirs = (
        {
            name: data
            for name, data in tree(tmp_path / out).items()
            if not name.startswith(".condprep/") and "state.json" not in name
        }
        for out in ("a", "b")
    )
    assert ours == theirs
    page = condprep.report(url, tmp_path / "page.html", pairs=3)
    assert page.rows == sum(summarize(made).rows.values())


def test_records_alone_are_fetched_before_rows_are_read(made: Path, cache: Path) -> None:
    """Opening a dataset fetches no file of rows; reading one fetches it and no other, once."""
    root = here(in_memory(made))
    assert not list(cache.glob("*/*.arrow"))
    assert (root / ".condprep" / "provenance.json").read_bytes() == (
        made / ".condprep" / "provenance.json"
    ).read_bytes()
    first = sorted(root.glob("train/*.arrow"))[0]
    with content(first) as copy:
        assert copy.read_bytes() == (made / "train" / first.name).read_bytes()
        inode = copy.stat().st_ino
    with content(first) as copy:
        assert copy.stat().st_ino == inode
    assert [path.name for path in cache.glob("*/*.arrow")] == [first.name]


def test_the_cache_is_bounded(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one file of rows at a time everything is still read, and never more lies there; a smaller limit says what to do."""
    url, sizes = in_memory(made), [path.stat().st_size for path in made.glob("*/*.arrow")]
    monkeypatch.setenv("CONDPREP_CACHE_LIMIT", str(max(sizes)))
    assert replace(summarize(url), path="") == replace(summarize(made), path="")
    assert sum(path.stat().st_size for path in cache.glob("*/*.arrow")) <= max(sizes)
    monkeypatch.setenv("CONDPREP_CACHE_LIMIT", "1000")
    with pytest.raises(UsageError, match=r"takes .* whose limit is 1,000"):
        condprep.verify(in_memory(made, "bucket/another"))


@pytest.mark.slow
def test_a_dataset_that_changed_is_seen_as_it_is_now(made: Path, tmp_path: Path) -> None:
    """What the cache has of a dataset that was replaced is forgotten, findings of the old one among it."""
    url = in_memory(made)
    before = condprep.verify(url)
    assert before.scores.exists()
    other = tmp_path / "other"
    condprep.curate(made, other, "near-duplicates")
    (file,) = (f for f in other.glob("train/*.arrow") if "00000" in f.name)
    in_memory(other)
    with content(here(url) / "train" / file.name) as copy:
        assert copy.read_bytes() == file.read_bytes()
    assert not before.scores.exists()


def test_names_of_others_lead_nowhere_else(cache: Path, made: Path) -> None:
    """An object whose name would lead out of the dataset's folder is left where it is."""
    url = in_memory(made)
    fsspec.filesystem("memory").store["/bucket/ds/../../../escaped.json"] = fsspec.filesystem("memory").store[
        "/bucket/ds/README.md"
    ]
    try:
        root = here(url)
    finally:
        del fsspec.filesystem("memory").store["/bucket/ds/../../../escaped.json"]
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} <= set(tree(made))
    assert not list(cache.parent.parent.rglob("escaped.json"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://bucket/nothing-here", "holds no dataset"),
        ("ftp://host/ds", "no kind of storage"),
        ("s3://", "names no bucket"),
    ],
)
def test_what_is_no_dataset_is_said_in_a_line(url: str, said: str) -> None:
    """Nothing at the URL, a protocol that nobody speaks, no bucket: one line that names the URL."""
    fsspec.filesystem("memory").pipe_file("/bucket/note.txt", b"no dataset")
    with pytest.raises((DatasetError, UsageError), match=said):
        summarize(url)


def test_a_build_that_has_not_finished_is_told_by_its_url(made: Path) -> None:
    """Half a dataset at a URL is refused as one in a folder is."""
    url = in_memory(made, "bucket/half")
    fsspec.filesystem("memory").rm("/bucket/half/.condprep/done.json")
    with pytest.raises(DatasetError, match=f"^{url} is a build that has not finished"):
        condprep.verify(url)


def test_damage_is_found_and_named_by_the_url(made: Path, tmp_path: Path) -> None:
    """A file that is cut off at the URL is a finding that names it there, and the other files are read."""
    url = in_memory(made, "bucket/damaged")
    files = fsspec.filesystem("memory")
    name = sorted(path.name for path in made.glob("train/*.arrow"))[0]
    files.pipe_file(f"/bucket/damaged/train/{name}", files.cat_file(f"/bucket/damaged/train/{name}")[:3000])
    result = condprep.verify(url, checks=["structure"], scores=tmp_path / "scores.parquet")
    damaged = [finding.reason for finding in result.findings if finding.row is None]
    assert len(damaged) == 1
    assert damaged[0].startswith(f"{url}/train/{name} is damaged")
    assert result.rows > 0


def test_faults_of_the_store_lose_nothing(made: Path, s3: S3Server, tmp_path: Path) -> None:
    """With a request in five failing, verify finds the same; without permission it says so in a line."""
    url = s3.upload(made, "faults")
    local = condprep.verify(made, checks=["structure"], scores=tmp_path / "a.parquet")
    s3.fail(rate=0.2, seed=3, kinds=("500", "503", "reset", "short"))
    try:
        far = condprep.verify(url, checks=["structure"], scores=tmp_path / "b.parquet")
        assert any(one["fault"] for one in s3.log())
        s3.fail(refuse="AccessDenied")
        with pytest.raises(StorageFault, match=url):
            condprep.verify(url)
    finally:
        s3.fail()
    assert (far.rows, far.findings) == (local.rows, local.findings)


def test_the_commands_take_urls(made: Path, photographs: Path, tmp_path: Path, command: Command) -> None:
    """The command line says of a URL what it says of the folder, and `annotate --like` repeats it."""
    url = in_memory(made)
    local, far = (command("inspect", where, "--json").json for where in (made, url))
    assert far == local | {"path": url}
    assert is_url(far["path"])
    picture = min((photographs / "group1").iterdir())
    assert command("annotate", picture, "--like", url, "-o", tmp_path / "maps").code == 0
    assert list((tmp_path / "maps").glob("*.png"))


def test_a_reader_that_is_collected_while_a_file_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter may throw a reader away at any moment, also while the same thread fetches another file: it does not wait for itself."""
    files = fsspec.filesystem("memory")
    for name in ("a", "b"):
        files.pipe_file(f"/collected/{name}.arrow", b"rows")
    root = here("memory://collected")
    first, read = content(root / "a.arrow"), list[bytes]()
    first.__enter__()

    def collecting(place: Any) -> Path:
        first.__exit__(None, None, None)
        return local(place)

    def second() -> None:
        with content(root / "b.arrow") as held:
            read.append(held.read_bytes())

    monkeypatch.setattr("condprep.dataset.remote.local", collecting)
    thread = Thread(target=second, daemon=True)
    thread.start()
    thread.join(60)
    assert read == [b"rows"]
