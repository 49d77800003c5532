"""The output folder: whose it is, one process at a time, and what a disk may refuse."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from condprep.building.parts import Part, begun_parts, hold_part
from condprep.dataset.layout import DATA_FOLDERS, Layout
from condprep.dataset.target import Target
from condprep.errors import DatasetError, TargetFault, UsageError
from condprep.runtime.folder import check_own, check_utf8, lies_in
from condprep.runtime.locks import Held, hold, is_held
from condprep.runtime.own import make_folder, remove, remove_folder
from condprep.runtime.retry import GOES_ON, as_fault, is_passing
from condprep.runtime.storage import is_url


def layout_of(out: str | os.PathLike[str], part: Part | None = None) -> Layout:
    """A folder, or at a URL a target with a working folder on this machine. Raises UsageError where it cannot be written."""
    if not os.fspath(out):
        raise UsageError('a folder is called "", which names nothing; give "." for the current one')
    check_utf8(out)
    if not is_url(os.fspath(out)):
        return Layout(Path(out))
    target = Target.at(os.fspath(out), (part.number, part.of) if part else None)
    return Layout(target.folder, target)


def check_places(source: str, layout: Layout) -> None:
    """Raises UsageError where the output holds other things or the source itself."""
    if layout.target and f"{source.rstrip('/')}/".startswith(f"{layout.target.remote}/"):
        raise UsageError(f"the source {source} lies inside {layout.target.remote}; choose an --out beside it")
    _check_folders(Path(source), layout.root)


def check_outside(source: str, layout: Layout) -> None:
    """Raises UsageError where the output lies in the source, a dataset: its rows would be taken for that one's."""
    inside = layout.url and f"{layout.url}/".startswith(f"{source.rstrip('/')}/")
    if inside or (not layout.target and lies_in(layout.root, Path(source))):
        raise UsageError(f"{layout.url or layout.root} lies inside the source {source}; choose an --out beside it")


@contextmanager
def at_target(layout: Layout, overwrite: bool, break_lock: bool) -> Iterator[None]:
    """The working folder of a target is what is at the URL, and nobody else writes there meanwhile."""
    if not layout.target:
        yield
        return
    with layout.target.claimed(break_lock):
        if overwrite:
            layout.target.clear()
        layout.target.restore(layout.root)
        yield


@contextmanager
def changing(layout: Layout, break_lock: bool, meant: str) -> Iterator[None]:
    """A finished dataset of condprep is this process's alone. meant: how to get one. Raises UsageError for anything else."""
    with at_target(layout, False, break_lock):
        if not (layout.done.exists() and (layout.private / "provenance.json").exists()):
            raise UsageError(f"{layout} is no finished dataset of condprep; {meant}")
        with locked(layout):
            yield


def _check_folders(source: Path, out: Path) -> None:
    if source.exists() and lies_in(source, out):
        raise UsageError(f"the source {source} lies inside the output folder {out}; choose an --out beside it")
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / ".condprep").is_dir():
        raise DatasetError(
            f"{out} is not empty and was not made by condprep; choose another --out or empty it yourself"
        )


@contextmanager
def locked(layout: Layout, part: Part | None = None) -> Iterator[None]:
    """One process a dataset, or one for each part of it. The operating system frees the lock when the process ends.

    Raises UsageError where a link lies in what is written to, be it prepared by somebody else or by the user.
    """
    layout.root.mkdir(parents=True, exist_ok=True)
    check_own(layout.root, [layout.private.name], shallow=DATA_FOLDERS)
    make_folder(layout.private)
    try:
        with hold(layout.lock, shared=part is not None), hold_part(layout, part) if part else nullcontext():
            if not part and layout.done.exists():  # left over, where a disk did not let it be removed
                layout.remove_shards()
            try:
                yield
            finally:
                if not part and _is_empty(layout):
                    _forget(layout)
    except Held:
        raise DatasetError(
            f"another process is building {layout.root}{_which(layout)}; wait for it or choose another --out"
        ) from None
    finally:
        if part and _is_empty(layout):
            with suppress(Held), hold(layout.lock):
                _forget(layout)


def _which(layout: Layout) -> str:
    parts = [str(part) for part in begun_parts(layout) if is_held(part.lock(layout))]
    return f" (part {', '.join(parts[:3])}{' ...' * (len(parts) > 3)})" if parts else ""


def _is_empty(layout: Layout) -> bool:
    """Whether a mistake ended the build before it had begun."""
    return layout.private.exists() and all(path.name.endswith("lock") for path in layout.private.iterdir())


def _forget(layout: Layout) -> None:
    """Leave no folder behind."""
    for lock in layout.private.iterdir():
        remove(lock, missing_ok=True)
    remove_folder(layout.private)
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
        if error.errno == errno.EFBIG:
            raise TargetFault(
                f"{error.filename or out}: {error.strerror}, for this disk or for `ulimit -f`; give the files another --out,"
                " or a smaller --shard-size"
            ) from error
        if not is_passing(error):
            raise
        raise TargetFault(f"{error.filename or out}: {error.strerror}. {GOES_ON}") from error
    except MemoryError as error:
        raise as_fault(error) from error
