"""The cache: within its limit, used longest ago goes first, and several processes may share it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import fsspec
import pytest
from support.command import Command

from condprep.errors import UsageError
from condprep.runtime import local_copies
from condprep.runtime.local_copies import cache_folder, cache_limit, copy_of, hold_folder, let_go, local
from condprep.runtime.storage import place

BLOCK = 1 << 16


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Room for four copies of a block."""
    monkeypatch.setenv("CONDPREP_CACHE", str(tmp_path))
    monkeypatch.setenv("CONDPREP_CACHE_LIMIT", str(4 * BLOCK))
    yield
    for path in list(local_copies._held):
        let_go(path)


def made(key: str, name: str = "copy") -> Path:
    return copy_of(key, name, BLOCK, lambda file: _fill(file, key))


def _fill(file: IO[bytes], key: str) -> None:
    file.write(key.encode() * (BLOCK // len(key)))


def there() -> set[str]:
    return {path.read_bytes()[:1].decode() for path in cache_folder().glob("*/copy")}


def test_what_was_not_used_longest_goes_first() -> None:
    """A copy that is asked for again stays; one that nobody asked for makes room."""
    for key in "abcd":
        let_go(made(key))
    let_go(made("a"))
    let_go(made("e"))
    assert there() == set("acde")


def test_what_is_held_stays() -> None:
    """Neither this process nor another one takes away what is in use, even where there is no room."""
    held = made("a")
    for key in "bcdefg":
        let_go(made(key))
    assert held.read_bytes()[:1] == b"a"
    script = f"from condprep.runtime.local_copies import copy_of\nfor key in 'hijk': copy_of(key, 'copy', {BLOCK}, lambda file: file.write(bytes({BLOCK})))"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert held.read_bytes()[:1] == b"a"


def folder(name: str) -> Path:
    """A folder of a dataset at a URL, that fills half of the cache; in use."""
    place = cache_folder().parent / "datasets" / name
    used = hold_folder(place)
    (place / "ds" / ".condprep").mkdir(parents=True)
    (place / "ds" / ".condprep" / "rejects.jsonl").write_bytes(bytes(2 * BLOCK))
    return used


def test_folders_are_copies_too() -> None:
    """What looks like a dataset at a URL, and a working folder for one, count and go like copies, while nobody uses them. What lies
    beside them stays: rows that are nowhere else."""
    old, new = folder("old"), folder("new")
    (segments := old.parent / "segments").mkdir()
    let_go(old)
    let_go(made("a"))
    assert (there(), old.parent.exists(), (old.parent / "ds").exists()) == ({"a"}, True, False)
    assert segments.exists()
    for key in "bcdef":
        let_go(made(key))
    assert (new.parent / "ds").exists()
    let_go(new)
    for key in "ghij":
        let_go(made(key))
    assert not new.parent.exists()
    assert there() == set("ghij")


def test_a_copy_is_made_once(tmp_path: Path) -> None:
    """Who asks again gets what is there, in this process and after it."""
    made("a")
    let_go(made("a"))
    asked: list[str] = []
    copy_of("a", "copy", BLOCK, lambda file: asked.append("again"))
    assert not asked


def test_what_cannot_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy larger than the limit, and a limit that is none, are one line each."""
    with pytest.raises(UsageError, match="raise CONDPREP_CACHE_LIMIT"):
        copy_of("s3://bucket/a 1:2", "copy", 5 * BLOCK, lambda file: None)
    monkeypatch.setenv("CONDPREP_CACHE_LIMIT", "10GB")
    with pytest.raises(UsageError, match="'10GB' is no number of bytes"):
        made("a")


def test_the_command_says_where_and_how_large(command: Command, tmp_path: Path) -> None:
    """`condprep --cache-dir DIR --cache-limit SIZE VERB`, for what it calls and starts; a size that is none is one line."""
    command("--cache-dir", tmp_path / "here", "--cache-limit", "20MB", "inspect", tmp_path)
    assert cache_folder() == tmp_path / "here" / "objects"
    assert cache_limit() == 20_000_000
    ended = command("--cache-limit", "20 G", "inspect", tmp_path)
    assert (ended.code, "--cache-limit '20 G' is no size" in ended.err) == (2, True)


@pytest.mark.parametrize("name", ["..", "a/../../b", "x" * 300 + ".csv", "a\\b"])
def test_names_of_objects_lead_nowhere(name: str) -> None:
    """A copy lies in the cache, whatever the object is called."""
    path = made("a", name)
    assert path.resolve().is_relative_to(cache_folder().resolve())
    assert len(path.relative_to(cache_folder()).parts) == 2


def test_a_copy_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a copy has no name."""

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        copy_of("a", "copy", BLOCK, fail)
    assert not list(cache_folder().glob("*/*"))


def test_an_object_becomes_a_file_of_its_name(clean_memory: Callable[[str, bytes], None]) -> None:
    """`local` gives what the object holds, and a local path as it is."""
    clean_memory("listings/metadata.csv", b"file_name\n" * 100)
    path = local(place("memory://bucket/listings/metadata.csv"))
    assert (path.name, path.read_bytes()) == ("metadata.csv", b"file_name\n" * 100)
    assert local(path) == path


@pytest.fixture
def clean_memory() -> Iterator[Callable[[str, bytes], None]]:
    """Puts objects into memory://, and takes them away again."""
    files = fsspec.filesystem("memory")
    yield lambda name, data: files.pipe_file(f"/bucket/{name}", data)
    files.store.clear()
