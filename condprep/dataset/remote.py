"""Datasets at URLs: a folder in the cache that looks like the dataset, whose files get their content when they are opened.

    CACHE/datasets/1f0c.../ds/   what the dataset's folder would be: its records, and files of rows that have their size and no content

So whatever reads a dataset's folder reads this one, and only who opens a file of rows (`condprep.dataset.reader`) asks for its content,
which is copied whole (`condprep.runtime.local_copies`: a folder with a limit).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import IO

import pyarrow as pa

from condprep.errors import DatasetError, UsageError
from condprep.runtime import arrow_ranges, parquet_ranges
from condprep.runtime.cache import cache_dir
from condprep.runtime.files import commit, commit_json, read_json
from condprep.runtime.local_copies import hold_folder, is_copied, let_go, local
from condprep.runtime.parquet_ranges import Stored, stored
from condprep.runtime.storage import Remote, place
from condprep.runtime.stores import Status

ROWS = (".arrow", ".parquet", ".tar")  # files that are fetched when they are opened
RECORDS = (".json", ".jsonl", ".md", ".jpg")  # and at once, where they are small
SMALL = 1 << 20  # bytes of a file that is fetched whole, whatever is read of it
MOST = 256_000_000  # bytes of a record
MOVING = "exchange.json"  # in .condprep: the dataset is becoming another one (`exchange`)
LONG_AGO = 10**18  # nanoseconds, in 2001: of files that are as they are at the URL, the time is before that


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
    if f".condprep/{MOVING}" in listed:
        raise DatasetError(
            f"{where} is being changed, and that has not finished; wait for it, or run the command that does it again"
        )
    if not any(name.endswith(ROWS) for name in listed):
        raise DatasetError(f"{where} holds no dataset: no .arrow or .parquet files")
    folder = cache_dir() / "datasets" / sha256(str(where).encode()).hexdigest()[:32]
    mirror = Mirror(str(where), pinned, folder / "ds", listed)
    mirror.prepare()
    _mirrors[mirror.root] = mirror
    return mirror.root


def watch(root: Path, url: str, remote: Remote) -> None:
    """From now on the files of rows below a folder of stand-ins get their content from the URL."""
    _mirrors[root] = Mirror(url, remote, root, {})


def remember(root: Path) -> None:
    """From now on files below a folder of stand-ins may be renamed, and keep the content that they have at the URL."""
    mirror = _mirrors[root]
    moved = mirror.moved or {}
    for path in [path for path in root.rglob("*") if path.is_file()]:
        status = path.stat()
        of = (status.st_ino, status.st_mtime_ns)
        if of not in moved and (found := origin_of(path)):
            moved[of] = found
    mirror.moved = moved
    for other in [one for one in _mirrors if root in one.parents]:
        del _mirrors[other]


def is_moving(root: Path) -> bool:
    """Whether files of that folder may lie elsewhere than their objects."""
    mirror = _mirror_of(root)
    return mirror is not None and mirror.moved is not None


def origin_of(path: Path) -> Remote | None:
    """The object that a file below a folder of stand-ins is; None where its content is here alone."""
    if not (mirror := _mirror_of(path)):
        return None
    status = path.stat()
    if status.st_mtime_ns >= LONG_AGO:
        return None
    found = (mirror.moved or {}).get((status.st_ino, status.st_mtime_ns))
    return found or mirror.remote / path.relative_to(mirror.root).as_posix()


def shown(path: Path) -> str:
    """A file's name for people, or a dataset's: its URL, where it is at one."""
    mirror = _mirror_of(path)
    if not mirror:
        return str(path)
    return mirror.url if path == mirror.root else f"{mirror.url}/{path.relative_to(mirror.root).as_posix()}"


def is_far(path: Path) -> bool:
    """Whether a file of rows would be fetched to be read."""
    return origin_of(path) is not None


@contextmanager
def content(path: Path) -> Iterator[Path]:
    """A file of rows to be read: the same, or where it is at a URL a copy, which stays as long as this is open."""
    if not (origin := origin_of(path)):
        yield path
        return
    with _held(origin) as copy:
        yield copy


def in_part(path: Path) -> Stored | None:
    """The object that a file of rows is, where it is worth while to fetch a part of it: a large one of which there is no copy."""
    origin = origin_of(path)
    if not origin or (file := stored(origin)).status is None or file.status.size <= SMALL or is_copied(origin):
        return None
    return file


@contextmanager
def columns_alone(file: Stored, columns: Sequence[str]) -> Iterator[Path]:
    """What `content` gives, but for the other columns, which are not there and may not be read."""
    assert isinstance(file.place, Remote)
    with _held(file.place, partial(_columns, file, columns)) as copy:
        yield copy


def _columns(file: Stored, columns: Sequence[str], origin: Remote) -> Path:
    try:
        if origin.suffix == ".parquet":
            return parquet_ranges.with_columns(file, columns)
        return arrow_ranges.with_columns(file, columns)
    except pa.ArrowException:  # what is wrong with it is said by who reads all of it
        return local(origin)


def opened(path: Path) -> IO[bytes]:
    """A file of rows of which little is read: where it is at a URL, by ranges."""
    origin = origin_of(path)
    return origin.open() if origin else path.open("rb")


@dataclass
class Mirror:
    """A dataset at a URL as this process sees it."""

    url: str
    remote: Remote
    root: Path
    listed: dict[str, Status]  # its files, by their names in it
    moved: dict[tuple[int, int], Remote] | None = None  # inode and time -> object, where files are being renamed

    @property
    def folder(self) -> Path:
        return self.root.parent

    def prepare(self) -> None:
        """The folder as the dataset is now. What was written into it (findings) stays for as long as the dataset is the same."""
        from filelock import FileLock

        hold_folder(self.folder)
        now = {"url": self.url, "files": {name: str(status) for name, status in sorted(self.listed.items())}}
        with FileLock(self.folder / "lock"):
            with suppress(OSError, ValueError):
                if read_json(self.folder / "listed.json") == now and self.root.is_dir():
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

    def _fetch(self, name: str, path: Path) -> None:
        status = self.listed[name]

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                for chunk in (self.remote / name).chunks(status):
                    file.write(chunk)

        commit(path, write)


@contextmanager
def _held(origin: Remote, made: Callable[[Remote], Path] = local) -> Iterator[Path]:
    """A copy of an object, held for as long as anybody here reads it."""
    with _lock:
        copy = made(origin)
        _readers[copy] += 1
    try:
        yield copy
    finally:
        with _lock:
            _readers[copy] -= 1
            if not _readers[copy]:
                let_go(copy)


_mirrors: dict[Path, Mirror] = {}  # that this process has opened, by their folders
_readers = Counter[Path]()  # of copies that it reads just now
_lock = (
    RLock()
)  # one file is fetched at a time; whoever does that may let go of another: of a reader that is collected just then


def _mirror_of(path: Path) -> Mirror | None:
    if not _mirrors:
        return None
    return next((_mirrors[root] for root in (path, *path.parents) if root in _mirrors), None)


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
    mark_as(path, status)


def mark_as(path: Path, status: Status) -> None:
    """Say that the content is that of the object."""
    time_of_mark = int(sha256(status.mark.encode()).hexdigest(), 16) % LONG_AGO
    os.utime(path, ns=(time_of_mark, time_of_mark))
