"""Locks between processes, of one machine or of several that share a file system.

The operating system frees them when their holder ends, however it ends, so no clock tells whether it lives.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from condprep.errors import UsageError
from condprep.runtime import own

with suppress(ImportError):  # Windows has none
    import fcntl


class Held(Exception):
    """Another process holds it."""


@contextmanager
def hold(path: Path, *, shared: bool = False, remove: bool = False) -> Iterator[int]:
    """Hold a lock for the block, or raise Held; the file's descriptor, to say in it who holds it.

    shared: with others who share it, and with nobody who does not. remove: the file, at the end; only of one who does not
    share it. Raises UsageError where this system has no locks that are shared.
    """
    if os.name == "nt":
        if shared:
            raise UsageError("this system has no locks that processes share, which --part needs; build without")
        with _hold_alone(path):
            yield os.open(os.devnull, os.O_RDWR)
        return
    descriptor = _take(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield descriptor
    finally:
        if remove:
            own.remove(path, missing_ok=True)
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds a lock that it does not share."""
    try:
        with hold(path, shared=True):
            return False
    except Held:
        return True


def _take(path: Path, how: int) -> int:
    while True:
        with own.parent_of(path) as parent:
            descriptor = os.open(
                parent.of(path.name), os.O_RDWR | os.O_CREAT | own.NO_LINK, 0o666, dir_fd=parent.descriptor
            )
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.lstat()):
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise Held(path) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it before has removed the file meanwhile


@contextmanager
def _hold_alone(path: Path) -> Iterator[None]:
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise Held(path) from None
