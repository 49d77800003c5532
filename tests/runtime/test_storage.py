"""Places: a URL answers what a path does, in few requests, and what a store says is told apart."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from support.s3_server import BUCKET, S3Server

from condprep.errors import PassingFault, SourceError, StorageFault, UsageError
from condprep.runtime.storage import Remote, is_url, place
from condprep.runtime.stores import FsspecStore

NAMES = ["a.jpg", "a/1.jpg", "a/b/2.jpg", "a0.jpg", "ä ö#?.jpg", "z.tar"]


@pytest.fixture
def memory() -> Iterator[Callable[[str, bytes], None]]:
    """Puts objects into memory://, which is empty before and after."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield lambda name, data: files.pipe_file(f"/{BUCKET}/{name}", data)
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def new_clients() -> Iterator[None]:
    """Clients of S3 that begin now, with what the environment says by then, and end with the test."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["memory", "s3"])
def put(request: pytest.FixtureRequest) -> Callable[[str, bytes], None]:
    """Puts objects into the bucket of a store of either kind."""
    found = request.getfixturevalue(request.param)
    return found.put if isinstance(found, S3Server) else found


@pytest.fixture
def root(put: Callable[[str, bytes], None], request: pytest.FixtureRequest) -> Remote:
    """A folder with the objects NAMES, each of which holds its name a hundred times."""
    for name in NAMES:
        put(f"places/{name}", name.encode() * 100)
    protocol = request.node.callspec.params["put"]
    found = place(f"{protocol}://{BUCKET}/places/")
    assert isinstance(found, Remote)
    return found


def test_local_paths_stay_paths(tmp_path: Path) -> None:
    """Nothing of this machine takes the way of an object store: a path, and a file:// URL, are a Path."""
    assert place(str(tmp_path)) == tmp_path
    assert place(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert not is_url(str(tmp_path))
    assert not is_url(f"file://{tmp_path}")
    assert is_url("s3://bucket/raw")
    assert not is_url("c:/raw")


@pytest.mark.parametrize("url", ["ftp://host/raw", "zip::s3://bucket/a.zip", "reference://a", "https://host/raw"])
def test_other_protocols_are_not_followed(url: str) -> None:
    """fsspec has file systems that run through others, or name any address: none but the known ones is opened."""
    if is_url(url):
        with pytest.raises(UsageError, match="no kind of storage"):
            place(url)
    else:
        assert isinstance(place(url), Path)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody speaks the protocol here, one line says what to install."""
    monkeypatch.setattr("condprep.runtime.storage.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'condprep\[gcs\]'"):
        place("gs://bucket/raw")


def test_a_folder_is_listed_as_a_disk_is(root: Remote, tmp_path: Path) -> None:
    """Names and their order are those of the same files on a disk."""
    for name in NAMES:
        (path := tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = {
        f"{folder.relative_to(tmp_path).as_posix()}/".removeprefix("./"): sorted(
            f"{one.name}/" if one.is_dir() else one.name for one in folder.iterdir()
        )
        for folder in [tmp_path, tmp_path / "a", tmp_path / "a/b"]
    }
    assert root.listing() == found
    assert (root / "a").listing() == {"": ["1.jpg", "b/"], "b/": ["2.jpg"]}
    assert (root / "a").is_dir()
    assert not (root / "a").is_file()
    assert (root / "a.jpg").is_file()
    assert not (root / "none").exists()


def test_an_object_is_read_by_ranges(root: Remote) -> None:
    """As a file it reads what a file would; its size and mark are known, and it goes through pickle."""
    for name in NAMES:
        one = pickle.loads(pickle.dumps(root / name))
        data = name.encode() * 100
        assert one.status().size == len(data)
        assert one.read_bytes() == data
        assert one.read(3, 7) == data[3:7]
        with one.open("rb") as file:
            file.seek(-5, 2)
            assert file.read() == data[-5:]
            file.seek(50)
            assert file.read(10) == data[50:60]


def test_an_object_that_was_replaced_is_noticed(root: Remote, put: Callable[[str, bytes], None]) -> None:
    """What was listed is not mixed with what took its place, even where that is as long."""
    listed = root / "a.jpg"
    status = listed.status()
    put("places/a.jpg", b"other" * 100)
    with pytest.raises(SourceError, match="another object than the one that was listed"):
        listed.read(0, 10, status.mark)


class Generations(MemoryFileSystem):
    """Objects by generation, as gcsfs reads them: that of an object that was replaced is not there any more."""

    cachable = False
    stored: ClassVar[dict[str, tuple[int, bytes]]] = {}

    def info(self, path: str, **_: object) -> dict[str, object]:
        if path not in self.stored:
            raise FileNotFoundError(path)
        generation, data = self.stored[path]
        return {"name": path, "type": "file", "size": len(data), "etag": "CAE=", "generation": str(generation)}

    def cat_file(self, path: str, start: int, end: int, generation: str | None = None) -> bytes:
        if self.info(path)["generation"] != (generation or self.info(path)["generation"]):
            raise FileNotFoundError(path)
        return self.stored[path][1][start:end]


@pytest.mark.parametrize("now", [b"other", None])
def test_an_object_of_google_is_read_at_its_generation(now: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was replaced is told, with no request more while it was not; one that was removed is missing."""
    monkeypatch.setattr(FsspecStore, "files", Generations())
    monkeypatch.setitem(Generations.stored, "bucket/a.jpg", (1700000000000001, b"first"))
    one = Remote("gs", "bucket/a.jpg", FsspecStore("gs"))
    status = one.status()
    assert one.read_bytes() == one.read_bytes(status) == b"first"
    if now:
        monkeypatch.setitem(Generations.stored, "bucket/a.jpg", (1700000000000002, now))
        with pytest.raises(SourceError, match="another object than the one that was listed"):
            one.read_bytes(status)
    else:
        monkeypatch.delitem(Generations.stored, "bucket/a.jpg")
        with pytest.raises(FileNotFoundError):
            one.read_bytes(status)


def test_what_is_not_there(root: Remote) -> None:
    """A missing object is FileNotFoundError, as of a file; and whether its bucket is there is known."""
    with pytest.raises(FileNotFoundError):
        (root / "none.jpg").read(0, 10)
    assert (root / "none.jpg").has_bucket()
    assert not Remote(root.protocol, "nowhere/none.jpg", root.store).has_bucket()


def test_a_listing_is_one_request_for_all_who_ask(s3: S3Server) -> None:
    """Thousands of questions about what was listed ask nobody."""
    for name in NAMES:
        s3.put(f"places/{name}", b"x")
    s3.fail()
    root = place(f"s3://{BUCKET}/places")
    assert isinstance(root, Remote)
    assert root.is_dir()
    assert [(root / name).status().size for name in NAMES] == [1] * len(NAMES)
    assert not (root / "none").exists()
    assert (root / "a" / "b").is_dir()
    assert len(s3.log()) == 1


@pytest.mark.parametrize("kind", ["500", "503", "reset", "short", "wait"])
def test_what_passes_is_tried_again(s3: S3Server, kind: str, request: pytest.FixtureRequest) -> None:
    """Each kind of passing fault is a PassingFault after six attempts, and no more of them, if it does not pass.

    An attempt is a request; where a connection ends without an answer, HTTP clients ask once more on a new one.
    """
    if kind == "wait":
        request.getfixturevalue("new_clients")
        request.getfixturevalue("monkeypatch").setattr("s3fs.S3FileSystem.read_timeout", 0.1)
    s3.put("passing", bytes(1000))
    s3.fail(rate=1, kinds=[kind], seed=1)
    found = place(f"s3://{BUCKET}/passing")
    assert isinstance(found, Remote)
    with pytest.raises(PassingFault, match="the same command goes on"):
        found.read(0, 1000)
    assert len(s3.log()) == (12 if kind == "reset" else 6)
    s3.fail()
    assert found.read(0, 1000) == bytes(1000)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("AccessDenied", "aws configure"),
        ("ExpiredToken", "aws sso login"),
        ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        ("RequestTimeTooSkewed", "clock is wrong"),
    ],
)
def test_what_is_refused_says_what_to_do(s3: S3Server, code: str, said: str) -> None:
    """Rights and credentials do not come back by waiting: one request, and a sentence with the remedy."""
    s3.put("refused", b"x")
    s3.fail(refuse=code)
    found = place(f"s3://{BUCKET}/refused")
    assert isinstance(found, Remote)
    with pytest.raises(StorageFault, match=said):
        found.read(0, 1)
    assert len(s3.log()) == 1


@pytest.mark.usefixtures("new_clients")
def test_no_credentials_at_all(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without credentials nobody is asked, and the remedy is named."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    found = place(f"s3://{BUCKET}/anything")
    assert isinstance(found, Remote)
    with pytest.raises(StorageFault, match="aws configure"):
        found.read(0, 1)
