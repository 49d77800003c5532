"""The one way to create, replace and remove in folders of ours: what is exchanged for a link meanwhile leads nowhere.

`check_own` refuses the links that lie in a folder when a command begins. Whoever can write into that folder may still lay one
a moment before something is done there. So nothing is done by a path that the kernel walks anew each time: the parent folder
is opened part by part, no part through a link, and held; then it is a name in a held folder that is created, replaced or
removed. Libraries that want a path (Arrow, safetensors, torch) get one of what is held: /proc/self/fd/7.

The folder that a user names may be reached through links, by his own word: parts are looked at from where `claim` was told
that a folder is ours. Where a system has no such calls (Windows), or no /proc (macOS: for what libraries write), paths are
used as they are.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from condprep.errors import UsageError

NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag, and few links
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_HELD = {os.open, os.mkdir, os.rmdir, os.unlink, os.rename, os.link} <= os.supports_dir_fd
_OPEN = Path("/proc/self/fd")

_claimed: set[str] = set()  # folders of this process's commands, absolute


@dataclass(frozen=True)
class Parent:
    """A folder that is held open; names in it."""

    descriptor: int | None  # None: paths are used as they are
    path: Path

    @property
    def place(self) -> Path:
        """A path of it for whoever takes nothing but paths."""
        return self.path if self.descriptor is None else place_of(self.descriptor, self.path)

    def of(self, name: str) -> str:
        """What `dir_fd` makes a name in this folder of."""
        return name if self.descriptor is not None else os.fspath(self.path / name)


def claim(root: Path) -> None:
    """From here on the folder is ours: nothing below it is reached through a link."""
    _claimed.add(os.path.abspath(root))


def create(parent: Parent, name: str) -> int:
    """A new file, open for reading and writing. Raises FileExistsError."""
    return os.open(parent.of(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666, dir_fd=parent.descriptor)


def remove(path: Path, *, missing_ok: bool = False) -> None:
    """A file, or a link itself."""
    with suppress(*[FileNotFoundError] * missing_ok), parent_of(path) as parent:
        os.unlink(parent.of(path.name), dir_fd=parent.descriptor)


def remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    """A folder with all that is in it."""
    with suppress(*[OSError] * ignore_errors), parent_of(path) as parent:
        if parent.descriptor is None:
            shutil.rmtree(path, ignore_errors=ignore_errors)
        else:
            shutil.rmtree(path.name, ignore_errors=ignore_errors, dir_fd=parent.descriptor)


def remove_folder(path: Path) -> None:
    """An empty one."""
    with parent_of(path) as parent:
        os.rmdir(parent.of(path.name), dir_fd=parent.descriptor)


def move(path: Path, target: Path) -> None:
    """To another name, which is replaced; of a folder, where that is an empty one."""
    with parent_of(path) as here, parent_of(target) as there:
        names = here.of(path.name), there.of(target.name)
        os.replace(*names, src_dir_fd=here.descriptor, dst_dir_fd=there.descriptor)


def make_folder(path: Path) -> None:
    """With those above it; nothing where it is there. Raises UsageError where a link is there."""
    root = _root_of(path)
    if root in (None, os.path.abspath(path)) or not _HELD:
        path.mkdir(parents=True, exist_ok=True)
    else:
        make_folder(path.parent)
        with parent_of(path) as parent, suppress(FileExistsError):
            os.mkdir(path.name, dir_fd=parent.descriptor)
        os.close(_open_folder(path))


@contextmanager
def appending(path: Path) -> Iterator[IO[str]]:
    """A file of text to which lines are added; a new one where there is none."""
    with parent_of(path) as parent:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | NO_LINK
        descriptor = os.open(parent.of(path.name), flags, 0o666, dir_fd=parent.descriptor)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            yield file


@contextmanager
def parent_of(path: Path) -> Iterator[Parent]:
    """The folder of a file or folder, held. Raises UsageError for a link on the way there."""
    descriptor = _open_folder(path.parent) if _HELD else None
    try:
        yield Parent(descriptor, path.parent)
    except OSError as error:
        if error.filename in (path.name, os.fspath(path)):  # a name in a held folder says nothing
            error.filename = os.fspath(path)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)


class Held:
    """A folder to write into, until it is closed: whatever becomes of its name meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor = _open_folder(folder) if _OPEN.is_dir() and _HELD else None
        self.place = folder if self._descriptor is None else _OPEN / str(self._descriptor)  # for whoever wants a path

    def create(self, name: str) -> int:
        """A new file in it, open. Raises FileExistsError."""
        return create(Parent(self._descriptor, self.folder), name)

    def close(self) -> None:
        """More than once does no harm."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def name(self, error: BaseException | None) -> None:
        """Tell a fault of the disk by the folder's own name."""
        if isinstance(error, OSError) and isinstance(error.filename, str):
            error.filename = error.filename.replace(f"{self.place}/", f"{self.folder}/")


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """A path of the folder for whoever writes into it and takes nothing but paths."""
    found = Held(folder)
    try:
        yield found.place
    except OSError as error:
        found.name(error)
        raise
    finally:
        found.close()


def place_of(descriptor: int, path: Path) -> Path:
    """The path of an open file, for whoever takes nothing but paths; `path` where the system has none."""
    return _OPEN / str(descriptor) if _OPEN.is_dir() else path


def _root_of(path: Path) -> str | None:
    """The folder of ours that holds it; the outermost, where there are several."""
    there = os.path.abspath(path)
    found = (root for root in _claimed if there == root or there.startswith(root.rstrip(os.sep) + os.sep))
    return min(found, key=len, default=None)


def _open_folder(folder: Path) -> int:
    root = _root_of(folder)
    if root is None:
        return os.open(folder, _FOLDER)
    descriptor, there = os.open(root, _FOLDER), Path(root)
    for part in Path(os.path.abspath(folder)).relative_to(root).parts:
        there /= part
        try:
            inner = os.open(part, _FOLDER | NO_LINK, dir_fd=descriptor)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and there.is_symlink():
                raise UsageError(
                    f"{there} has become a link, and nothing is written or removed through links; remove it (what it leads to"
                    " stays), and run the same command again"
                ) from None
            error.filename = os.fspath(there)
            raise
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor
