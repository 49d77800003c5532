"""A folder of pictures, any mix of formats, with captions from NAME.txt beside NAME.jpg."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from condprep.errors import PassingFault, Rejected, SourceError
from condprep.runtime.retry import GOES_ON, retried
from condprep.sources.base import (
    MAX_CAPTION,
    captions,
    device_of,
    file_problem,
    is_picture,
    native,
    portable,
    read_listed,
    refused,
    rejected_entry,
    stamp,
)
from condprep.types import Entry, Sample


@dataclass(frozen=True)
class FolderSource:
    """Every picture below `root`, by relative path, in the order of the paths' code points.

    Hidden files and folders are skipped, and so is the folder `exclude`. Links to files are followed. Each real
    folder is visited once, under the name that sorts first, so links to folders are followed and loops are harmless.
    """

    root: Path
    exclude: Path | None = None
    kind: str = "folder"
    device: int = field(init=False, repr=False, compare=False)  # that `root` was on when the source was opened

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", device_of(self.root))

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def entries(self) -> Iterator[Entry]:
        """Raises SourceError when `root` itself cannot be listed; a folder below it becomes a problem entry."""
        try:
            pending = retried(lambda: _children(self.root), str(self.root))[::-1]
        except OSError as error:
            raise SourceError(f"the folder {str(self.root)!r} cannot be listed: {error.strerror}") from None
        visited = {_inode(folder) for folder in (self.root, self.exclude) if folder and folder.exists()}
        while pending:
            relative = pending.pop()
            path = self.root / relative
            if not relative.endswith("/"):
                yield _entry(relative, path)
                continue
            try:
                inode, children = retried(partial(_visit, path, visited), relative)
                visited.add(inode)
                pending += [relative + child for child in children[::-1]]
            except OSError as error:
                reason = f"the folder cannot be listed: {error.strerror}"
                yield rejected_entry(portable(relative), Rejected("source", reason, code="unreadable-folder"))

    def read(self, entry: Entry) -> Sample:
        path = self.root / native(entry.name)
        sidecar = path.with_suffix(".txt")  # which may also be the name of a folder
        try:
            text = captions(read_listed(sidecar, cut=MAX_CAPTION)) if sidecar.is_file() else ()
            return Sample(entry.name, read_listed(path), text)
        except Rejected:
            if device_of(self.root) != self.device:
                raise PassingFault(f"{self.root} is not what was mounted there; put it back. {GOES_ON}") from None
            raise


def _children(folder: Path) -> list[str]:
    """Pictures and sub-folders, sorted. A folder's name ends with "/", which makes the order that of whole paths."""
    with os.scandir(folder) as found:
        names = (f"{item.name}/" if _is_folder(item) else item.name for item in found if item.name[0] != ".")
        return sorted(name for name in names if name.endswith("/") or is_picture(name))


def _visit(folder: Path, visited: Container[tuple[int, int]]) -> tuple[tuple[int, int], list[str]]:
    """A folder's inode and what lies in it, which is nothing where it was visited before."""
    inode = _inode(folder)
    return inode, [] if inode in visited else _children(folder)


def _is_folder(item: os.DirEntry[str]) -> bool:
    """Without a question to the file system but for links, which may lead nowhere or in circles."""
    return os.path.isdir(item) if item.is_symlink() else item.is_dir()


def _entry(relative: str, path: Path) -> Entry:
    name, sidecar = portable(relative), path.with_suffix(".txt")
    try:
        status = retried(path.stat, relative)
    except OSError as error:
        return rejected_entry(name, refused("source", "cannot be read", error), stamp(path, sidecar))
    now, size = stamp(status, sidecar), status.st_size
    problem = file_problem(status)
    return rejected_entry(name, problem, now, size=size) if problem else Entry(name, now, size=size)


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
