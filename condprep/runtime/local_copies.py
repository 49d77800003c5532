"""What of objects at URLs must lie on this machine: one folder with a limit in bytes.

    CACHE/objects/1f0c.../name       copies: listings, files of rows, row groups of Parquet, which are mapped into memory
    CACHE/datasets/1f0c.../ds        folders that look like a dataset at a URL, with its records (`condprep.dataset.remote`)
    CACHE/targets/1f0c.../ds         working folders of datasets that are built at a URL (`condprep.dataset.target`)

Whoever adds something takes away what was not used for the longest time; what a living process holds stays. Several processes
share the folder: a copy has its name once it is complete. Weights, and rows that are nowhere else (segments), are not counted and stay.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO

from condprep.errors import UsageError
from condprep.runtime.cache import cache_dir
from condprep.runtime.files import commit, try_lock
from condprep.runtime.folder import is_plain
from condprep.runtime.storage import Place

LIMIT = "CONDPREP_CACHE_LIMIT"
MAX_NAME = 200  # bytes of a name that a copy has, too
DEFAULT_LIMIT = 50_000_000_000  # bytes
USED = "used"  # beside a folder of the cache: locked while it is in use, and as old as that is ago
_held: dict[
    Path, IO[bytes]
] = {}  # copies, and such files, that this process uses: open, and locked against being taken away


def cache_folder() -> Path:
    """Where copies of objects are kept."""
    return cache_dir() / "objects"


def cache_limit() -> int:
    """Bytes. Raises UsageError for a limit that is no number."""
    said = os.environ.get(LIMIT, str(DEFAULT_LIMIT))
    if not said.isascii() or not said.isdecimal():
        raise UsageError(f"{LIMIT} = {said!r} is no number of bytes")
    return int(said)


def local(place: Place) -> Path:
    """A file of this machine with the content of the place, of the same name. It is held until this process ends.

    Raises FileNotFoundError, and UsageError where it is larger than the limit.
    """
    if isinstance(place, Path):
        return place
    status = place.status()

    def fill(file: IO[bytes]) -> None:
        for chunk in place.chunks(status):
            file.write(chunk)

    return copy_of(f"{place} {status}", place.name, status.size, fill)


def copy_of(key: str, name: str, size: int, fill: Callable[[IO[bytes]], None]) -> Path:
    """The copy of that key, held until `let_go`; where there is none, `fill` writes it. size: bytes that it takes."""
    if size > (limit := cache_limit()):
        raise UsageError(
            f"{key.partition(' ')[0]} takes {size:,} bytes in the cache, whose limit is {limit:,}; raise {LIMIT}"
        )
    path = _path(key, name)
    while path not in _held:
        with suppress(FileNotFoundError):
            _hold(path)
            break
        path.parent.mkdir(parents=True, exist_ok=True)
        commit(path, lambda partial: _write(partial, fill))
        with suppress(FileNotFoundError):  # of another process that has less room
            _hold(path)
            _make_room(limit)
    return path


def is_copied(place: Place) -> bool:
    """Whether `local` has nothing to fetch just now."""
    return isinstance(place, Path) or _path(f"{place} {place.status()}", place.name).exists()


def _path(key: str, name: str) -> Path:
    fits = is_plain(name) and len(os.fsencode(name)) <= MAX_NAME
    own = name if fits else f"copy{os.path.splitext(name)[1][: MAX_NAME // 4]}"
    return cache_folder() / sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32] / own


def hold_folder(folder: Path) -> Path:
    """A folder of the cache, of which `ds` can be made again, is in use until this process ends, or `let_go` is told what this returns."""
    used = folder / USED
    while used not in _held:
        folder.mkdir(parents=True, exist_ok=True)
        used.touch()
        with suppress(FileNotFoundError):
            _hold(used)
    return used


def let_go(path: Path) -> None:
    """A copy may be taken away where room is needed."""
    if file := _held.pop(path, None):
        file.close()


def _hold(path: Path) -> None:
    file = path.open("rb")
    if not try_lock(file.fileno(), shared=True) or not path.exists():
        file.close()
        raise FileNotFoundError(path)  # it is being taken away
    os.utime(path)
    _held[path] = file


def _write(partial: Path, fill: Callable[[IO[bytes]], None]) -> None:
    with partial.open("r+b") as file:
        fill(file)


def _make_room(limit: int) -> None:
    found = []
    for path in _entries():
        with suppress(FileNotFoundError):
            status = path.stat()
            size = _taken(status) if path.name != USED else _size(path, status.st_mtime_ns)
            found.append((status.st_mtime_ns, path, size))
    over = sum(size for _, _, size in found) - limit
    for _, path, size in sorted(found):
        if over <= 0:
            return
        if path not in _held and _take_away(path):
            over -= size


def _entries() -> Iterator[Path]:
    yield from cache_folder().glob("*/*")
    for folders in ("datasets/*", "targets/*", "targets/*/*"):
        yield from cache_dir().glob(f"{folders}/{USED}")


_sizes: dict[Path, tuple[int, int]] = {}  # of folders, with the time of their last use


def _size(used: Path, time: int) -> int:
    """Bytes of a folder on the disk. One that is in use is measured once, and not while it grows."""
    if used not in _sizes or _sizes[used][0] != time:
        files = (path.lstat() for path in (used.parent / "ds").rglob("*"))
        _sizes[used] = time, sum(map(_taken, files))
    return _sizes[used][1]


def _taken(status: os.stat_result) -> int:
    """Bytes on the disk: of a file with holes, those that are filled."""
    return getattr(status, "st_blocks", -(-status.st_size // 512)) * 512


def _take_away(path: Path) -> bool:
    """Whether nobody holds it. Of a folder that is known by a lock, so where there are none it stays."""
    if path.name == USED and os.name == "nt":
        return False
    with suppress(OSError), path.open("rb") as file:
        if try_lock(file.fileno()):
            if path.name == USED:
                shutil.rmtree(path.parent / "ds", ignore_errors=True)
                _sizes.pop(path, None)
            path.unlink()
            with suppress(OSError):  # others lie beside it: rows that are nowhere else
                path.parent.rmdir()
            return True
    return False
