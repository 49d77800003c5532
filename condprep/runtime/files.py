"""Files that are either complete or not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from condprep.runtime.own import NO_LINK, Parent, create, parent_of, place_of

try:
    import fcntl
except ImportError:  # Windows, which lets nobody remove a file that is open
    fcntl = None  # type: ignore[assignment]

MAX_JSON = 1 << 28  # bytes; a million findings have fewer
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of which only what is written to is told


def commit(path: Path, write: Callable[[Path], object], *, renames: bool = False) -> None:
    """`write` fills a partial file; the final name exists only once its content is complete and on disk.

    The partial file is a new one, whatever lay under its name: no link is followed, and a link under the final name is
    replaced itself. `write` gets a path of the open file, whatever becomes of its name and its folder meanwhile. Of several
    processes that write the same file at once, the last one's stays.

    renames: `write` makes a file of its own beside the partial one, and renames it, as safetensors does.
    """
    with _told_by(path), parent_of(path) as parent:
        with _partial(parent, path.name) as (name, descriptor):
            if renames:
                write(parent.place / name)
                _fsync_new(parent, name, path)
            else:
                write(place_of(descriptor, parent.path / name))
                _fsync(descriptor, path)
                if not _is_at(descriptor, parent, name):
                    raise FileNotFoundError(errno.ENOENT, "was exchanged while it was written", os.fspath(path))
            names = parent.of(name), parent.of(path.name)
            os.replace(*names, src_dir_fd=parent.descriptor, dst_dir_fd=parent.descriptor)
        if parent.descriptor is not None:
            _fsync(parent.descriptor, path.parent)


@contextmanager
def _told_by(path: Path) -> Iterator[None]:
    """What the disk refuses is told by the file's whole path, and not by a name in a folder that is held open."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str) and error.filename.startswith(path.name):
            error.filename = os.fspath(path)
        raise


@contextmanager
def _partial(parent: Parent, final: str) -> Iterator[tuple[str, int]]:
    """An empty file of our own, its name and its descriptor, to be renamed; gone where that fails."""
    name = f"{final}.partial"
    _remove_abandoned(parent, name)
    try:
        descriptor = _create(parent, name)
    except FileExistsError:  # another process is writing it
        name = f"{final}.{token_hex(4)}.partial"
        descriptor = _create(parent, name)
    try:
        yield name, descriptor
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(parent.of(name), dir_fd=parent.descriptor)
        if isinstance(error, OSError):
            unnamed = error.errno in NO_ROOM and not error.filename  # who writes is not told of what
            if unnamed or error.filename == os.fspath(place_of(descriptor, Path())):
                error.filename = os.fspath(parent.path / final)
        raise
    finally:
        os.close(descriptor)


def _create(parent: Parent, name: str) -> int:
    """A file that was not there, locked for as long as it is open. Raises FileExistsError."""
    while True:
        descriptor = create(parent, name)
        try_lock(descriptor, wait=True)
        if _is_at(descriptor, parent, name):
            return descriptor
        os.close(descriptor)  # before it was locked, another process took it for an abandoned one, and removed it


def _is_at(descriptor: int, parent: Parent, name: str) -> bool:
    """Whether the name still leads to the open file."""
    with suppress(FileNotFoundError):
        there = os.stat(parent.of(name), dir_fd=parent.descriptor, follow_symlinks=False)
        return os.path.samestat(os.fstat(descriptor), there)
    return False


def _remove_abandoned(parent: Parent, name: str) -> None:
    """Take away what a killed process has left, or anybody else has laid there; not what a living one is writing."""
    there, at = parent.of(name), parent.descriptor
    with suppress(FileNotFoundError):
        if stat.S_ISLNK(os.stat(there, dir_fd=at, follow_symlinks=False).st_mode):
            os.unlink(there, dir_fd=at)
            return
        descriptor = os.open(there, os.O_RDWR | NO_LINK | getattr(os, "O_NONBLOCK", 0), dir_fd=at)
        try:
            if try_lock(descriptor) and _is_at(descriptor, parent, name):
                os.unlink(there, dir_fd=at)
        finally:
            os.close(descriptor)


def try_lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Whether nobody else holds it. The operating system frees it when the process ends, however it ends.

    shared: others may hold it, too, who want no more than that.
    """
    try:
        if fcntl:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def commit_same(path: Path, source: Path) -> None:
    """A complete file of ours under a second name where the disk can do that, else a copy of it."""
    with parent_of(path) as parent, parent_of(source) as there:
        name = f"{path.name}.partial"
        _remove_abandoned(parent, name)
        try:
            names = there.of(source.name), parent.of(name)
            os.link(*names, src_dir_fd=there.descriptor, dst_dir_fd=parent.descriptor, follow_symlinks=False)
        except OSError:
            commit(path, partial(shutil.copyfile, source))
            return
        names = parent.of(name), parent.of(path.name)
        os.replace(*names, src_dir_fd=parent.descriptor, dst_dir_fd=parent.descriptor)
        if parent.descriptor is not None:
            _fsync(parent.descriptor, path.parent)


def commit_text(path: Path, text: str) -> None:
    commit(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def commit_json(path: Path, value: Any) -> None:
    """Sorted, indented, so that equal values are equal bytes."""
    commit_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises OSError, or ValueError for what is none: whoever wrote it, it may be a pipe, endless, or ten thousand deep."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # else a pipe would be waited for
    with open(descriptor, encoding="utf-8") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_JSON:
            raise ValueError(f"no file, or one of more than {MAX_JSON:,} bytes")
        try:
            return json.load(file)
        except RecursionError:
            raise ValueError("nested too deep") from None


def fsync(path: Path) -> None:
    """A file's content, or a folder's names, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _fsync(descriptor, path)
    finally:
        os.close(descriptor)


def _fsync_new(parent: Parent, name: str, path: Path) -> None:
    """Raises OSError for what is a link by now."""
    descriptor = os.open(parent.of(name), os.O_RDONLY | NO_LINK, dir_fd=parent.descriptor)
    try:
        _fsync(descriptor, path)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int, path: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:  # which has no name
        error.filename = os.fspath(path)
        raise
