"""The output folder: whose it is, one process at a time, and what a disk may refuse."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from condprep.dataset.layout import DATA_FOLDERS, Layout
from condprep.errors import DatasetError, TargetFault, UsageError
from condprep.runtime.folder import check_own
from condprep.runtime.retry import GOES_ON, as_fault, is_passing


def check_folders(source: Path, out: Path) -> None:
    """Raises UsageError where the output folder holds other things or the source itself."""
    here, there = out.absolute(), source.absolute()
    if source.exists() and (here.resolve() == there.resolve() or here.resolve() in there.resolve().parents):
        raise UsageError(f"the source {source} lies inside the output folder {out}; choose an --out beside it")
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / ".condprep").is_dir():
        raise DatasetError(
            f"{out} is not empty and was not made by condprep; choose another --out or empty it yourself"
        )


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """One process a dataset. The operating system frees the lock when the process ends, however it ends.

    Raises UsageError where a link lies in what is written to, be it prepared by somebody else or by the user.
    """
    layout.root.mkdir(parents=True, exist_ok=True)
    check_own(layout.root, [layout.private.name], shallow=DATA_FOLDERS)
    layout.private.mkdir(exist_ok=True)
    try:
        with FileLock(layout.lock, timeout=0):
            try:
                yield
            finally:
                _forget_if_empty(layout)
    except Timeout:
        raise DatasetError(f"another process is building {layout.root}; wait for it or choose another --out") from None


def _forget_if_empty(layout: Layout) -> None:
    """Leave no folder behind where a mistake ended the build before it had begun."""
    if [*layout.private.iterdir()] == [layout.lock]:
        layout.lock.unlink()
        layout.private.rmdir()
        with suppress(OSError):  # not empty: a folder of the user's
            layout.root.rmdir()


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """What the disk of the output refuses, as an error with its remedy; whoever reads the source tells its faults."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DatasetError(
                f"{error.filename or out}: {error.strerror}; choose an --out you may write to"
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TargetFault(
                f"{out}: {error.strerror}; make room, then run the same command again: it goes on"
            ) from error
        if not is_passing(error):
            raise
        raise TargetFault(f"{error.filename or out}: {error.strerror}. {GOES_ON}") from error
    except MemoryError as error:
        raise as_fault(error) from error
