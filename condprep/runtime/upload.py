"""Writing objects at a URL: whole, by parts where they are large, and under a name that nobody else has taken.

What may pass is tried again; what is refused, and what still fails then, is the target's fault.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from condprep.errors import PassingFault, StorageFault, TargetFault, UsageError
from condprep.runtime.retry import GOES_ON, retried
from condprep.runtime.storage import Remote
from condprep.runtime.storage_faults import as_storage_error

R = TypeVar("R")


def check_writable(place: Remote) -> None:
    """Raises UsageError where objects cannot be put one by one."""
    if not hasattr(place.store, "files"):
        raise UsageError(
            f"{place}: a repository gets its files by one commit; build in a folder, then `condprep push` it"
        )


def put(place: Remote, data: bytes) -> None:
    """A small object, whole."""
    _write(place, lambda files: files.pipe_file(place.path, data))


def create(place: Remote, data: bytes) -> bool:
    """Whether nobody had it: of several that create it at once, one gets True."""

    def write(files: Any) -> bool:
        try:
            files.pipe_file(place.path, data, mode="create")
        except FileExistsError:
            return False
        return True

    return _write(place, write)


def send(path: Path, place: Remote) -> None:
    """A file, in parts where it is large."""
    _write(place, lambda files: files.put_file(str(path), place.path))


def copy(place: Remote, other: Remote) -> None:
    """Within the store: nothing of it passes through this machine."""
    _write(other, lambda files: files.cp_file(place.path, other.path))


def remove(place: Remote) -> None:
    """Nothing happens where there is no such object."""

    def write(files: Any) -> None:
        try:
            files.rm_file(place.path)
        except FileNotFoundError:
            return

    _write(place, write)


def _write(place: Remote, write: Callable[[Any], R]) -> R:
    def tried() -> R:
        try:
            files = place.store.files  # type: ignore[attr-defined]  # check_writable
            return write(files)
        except Exception as error:
            raise _as_target_error(error, str(place)) from error

    try:
        return retried(tried, str(place))
    except PassingFault as error:
        raise TargetFault(str(error)) from error


def _as_target_error(error: BaseException, url: str) -> BaseException:
    found = as_storage_error(error, url)
    if isinstance(found, FileNotFoundError):
        return TargetFault(f"{url} cannot be written: there is no such bucket; create it. {GOES_ON}")
    if isinstance(found, StorageFault):
        said = (
            str(found).replace("may not be read", "may not be written").replace("cannot be read", "cannot be written")
        )
        return TargetFault(said.replace("that may read it", "that may write it"))
    return found
