"""Datasets at URLs: a folder in the cache that looks like the dataset, whose files get their content when they are opened.

    CACHE/datasets/1f0c.../ds/   what the dataset's folder would be: its records, and files of rows that have their size and no content

So whatever reads a dataset's folder reads this one, and only who opens a file of rows (`condprep.dataset.reader`) asks for its content,
which is copied whole (`condprep.runtime.local_copies`: a folder with a limit).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import IO

from condprep.errors import DatasetError, UsageError
from condprep.runtime.cache import cache_dir
from condprep.runtime.files import commit, commit_json, read_json
from condprep.runtime.local_copies import let_go, local
from condprep.runtime.storage import Remote, place
from condprep.runtime.stores import Status

ROWS = (".arrow", ".parquet", ".tar")  # files that are fetched when they are opened
RECORDS = (".json", ".jsonl", ".md", ".jpg")  # and at once, where they are small
MOST = 256_000_000  # bytes of a record


def here(dataset: str | os.PathLike[str]) -> Path:
    """The folder of a dataset, be it on this disk or at a URL.

    Raises DatasetError where there is none at the URL, and UsageError, StorageFault or PassingFault where it cannot be read.
    """
    where = place(os.fspath(dataset))
    if isinstance(where, Path):
        return where
    try:
        pinned = where.pinned()
        listed = _listed(pinned)
        is_there = bool(listed) or pinned.has_bucket()
    except FileNotFoundError:
        is_there = False
    if not is_there:
        raise UsageError(f"{where} is in a bucket, or of an owner, that is not there; check the URL")
    if not any(name.endswith(ROWS) for name in listed):
        raise DatasetError(f"{where} holds no dataset: no .arrow or .parquet files")
    folder = cache_dir() / "datasets" / sha256(str(where).encode()).hexdigest()[:32]
    mirror = Mirror(str(where), pinned, folder, listed)
    mirror.prepare()
    _mirrors[mirror.root] = mirror
    return mirror.root


def watch(root: Path, url: str, remote: Remote) -> None:
    """From now on the files of rows below a folder of stand-ins get their content from the URL."""
    _mirrors[root] = Mirror(url, remote, root.parent, {})


def shown(path: Path) -> str:
    """A file's name for people, or a dataset's: its URL, where it is at one."""
    mirror = _mirror_of(path)
    if not mirror:
        return str(path)
    return mirror.url if path == mirror.root else f"{mirror.url}/{path.relative_to(mirror.root).as_posix()}"


def is_far(path: Path) -> bool:
    """Whether a file of rows would be fetched to be read."""
    return _mirror_of(path) is not None


@contextmanager
def content(path: Path) -> Iterator[Path]:
    """A file of rows to be read: the same, or where it is at a URL a copy, which stays as long as this is open."""
    mirror = _mirror_of(path)
    if not mirror:
        yield path
        return
    with mirror.held(path.relative_to(mirror.root).as_posix()) as copy:
        yield copy


def opened(path: Path) -> IO[bytes]:
    """A file of rows of which little is read: where it is at a URL, by ranges."""
    mirror = _mirror_of(path)
    return (mirror.remote / path.relative_to(mirror.root).as_posix()).open() if mirror else path.open("rb")


@dataclass
class Mirror:
    """A dataset at a URL as this process sees it."""

    url: str
    remote: Remote
    folder: Path
    listed: dict[str, Status]  # its files, by their names in it

    @property
    def root(self) -> Path:
        return self.folder / "ds"

    def prepare(self) -> None:
        """The folder as the dataset is now. What was written into it (findings) stays for as long as the dataset is the same."""
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        now = {"url": self.url, "files": {name: str(status) for name, status in sorted(self.listed.items())}}
        with FileLock(self.folder / "lock"):
            with suppress(OSError, ValueError):
                if read_json(self.folder / "listed.json") == now:
                    return
            (self.folder / "listed.json").unlink(missing_ok=True)
            shutil.rmtree(self.root, ignore_errors=True)
            self.root.mkdir()
            for name, status in self.listed.items():
                path = self.root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if name.endswith(ROWS):
                    stand_in(path, status)
                else:
                    self._fetch(name, path)
            commit_json(self.folder / "listed.json", now)

    @contextmanager
    def held(self, name: str) -> Iterator[Path]:
        """A copy of a file, held for as long as anybody here reads it."""
        with _lock:
            copy = local(self.remote / name)
            _readers[copy] += 1
        try:
            yield copy
        finally:
            with _lock:
                _readers[copy] -= 1
                if not _readers[copy]:
                    let_go(copy)

    def _fetch(self, name: str, path: Path) -> None:
        status = self.listed[name]

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                for chunk in (self.remote / name).chunks(status):
                    file.write(chunk)

        commit(path, write)


_mirrors: dict[Path, Mirror] = {}  # that this process has opened, by their folders
_readers = Counter[Path]()  # of copies that it reads just now
_lock = Lock()  # one file is fetched at a time


def _mirror_of(path: Path) -> Mirror | None:
    return next((mirror for root, mirror in _mirrors.items() if path.is_relative_to(root)), None)


def _listed(remote: Remote) -> dict[str, Status]:
    """What of a dataset's files is of use here. Names are of others, and lead nowhere else."""
    remote.forget()
    found: dict[str, Status] = {}
    for folder, names in remote.listing().items():
        for name in names:
            path = f"{folder}{name}"
            if path.endswith((*ROWS, *RECORDS)) and is_inside(path):
                status = (remote / path).status()
                if path.endswith(ROWS) or status.size <= MOST:
                    found[path] = status
    return found


def is_inside(path: str) -> bool:
    """Whether a name, of others, is one of a file below a folder."""
    return "\\" not in path and "\0" not in path and all(part not in ("", ".", "..") for part in path.split("/"))


def stand_in(path: Path, status: Status) -> None:
    """A file of that size without content, and with a time that changes when the object does."""
    with path.open("wb") as file:
        file.truncate(status.size)
    time_of_mark = int(sha256(status.mark.encode()).hexdigest(), 16) % 10**18
    os.utime(path, ns=(time_of_mark, time_of_mark))
