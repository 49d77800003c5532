"""Files that are either complete or not there."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, which lets nobody remove a file that is open
    fcntl = None  # type: ignore[assignment]

MAX_JSON = 1 << 28  # bytes; a million findings have fewer
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of which only what is written to is told
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag, and few links


def commit(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a partial file; the final name exists only once its content is complete and on disk.

    The partial file is a new one, whatever lay under its name: no link is followed, and a link under the final name is
    replaced itself. Of several processes that write the same file at once, the last one's stays.
    """
    with _partial(path) as partial:
        write(partial)
        fsync(partial)
        partial.replace(path)
    fsync(path.parent)


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """An empty file of our own beside `path`, to be renamed; gone where that fails."""
    partial = path.with_name(f"{path.name}.partial")
    _remove_abandoned(partial)
    try:
        descriptor = _create(partial)
    except FileExistsError:  # another process is writing it
        partial = path.with_name(f"{path.name}.{token_hex(4)}.partial")
        descriptor = _create(partial)
    try:
        yield partial
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            error.filename = error.filename or os.fspath(path)  # who writes is not told of what
        raise
    finally:
        os.close(descriptor)


def _create(partial: Path) -> int:
    """A file that was not there, locked for as long as it is open. Raises FileExistsError."""
    while True:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666)
        try_lock(descriptor, wait=True)
        if _is_at(descriptor, partial):
            return descriptor
        os.close(descriptor)  # before it was locked, another process took it for an abandoned one, and removed it


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the name still leads to the open file."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False


def _remove_abandoned(partial: Path) -> None:
    """Take away what a killed process has left, or anybody else has laid there; not what a living one is writing."""
    if partial.is_symlink():
        partial.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        descriptor = os.open(partial, os.O_RDWR | NO_LINK | getattr(os, "O_NONBLOCK", 0))
        try:
            if try_lock(descriptor) and _is_at(descriptor, partial):
                partial.unlink()
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
        os.fsync(descriptor)
    except OSError as error:  # which has no name
        error.filename = os.fspath(path)
        raise
    finally:
        os.close(descriptor)
