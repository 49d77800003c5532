"""A folder of pictures, any mix of formats, with captions from NAME.txt beside NAME.jpg."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condprep.errors import Rejected, SourceError
from condprep.sources.base import (
    MAX_CAPTION,
    captions,
    file_problem,
    is_picture,
    native,
    portable,
    read_regular,
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

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def entries(self) -> Iterator[Entry]:
        """Raises SourceError when `root` itself cannot be listed; a folder below it becomes a problem entry."""
        try:
            pending = _children(self.root)[::-1]
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
                if (inode := _inode(path)) not in visited:
                    visited.add(inode)
                    pending += [relative + child for child in _children(path)[::-1]]
            except OSError as error:
                reason = f"the folder cannot be listed: {error.strerror}"
                yield rejected_entry(portable(relative), Rejected("source", reason, code="unreadable-folder"))

    def read(self, entry: Entry) -> Sample:
        path = self.root / native(entry.name)
        sidecar = path.with_suffix(".txt")
        text = captions(read_regular(sidecar, cut=MAX_CAPTION)) if sidecar.exists() else ()
        return Sample(entry.name, read_regular(path), text)


def _children(folder: Path) -> list[str]:
    """Pictures and sub-folders, sorted. A folder's name ends with "/", which makes the order that of whole paths."""
    with os.scandir(folder) as found:
        names = (f"{item.name}/" if _is_folder(item) else item.name for item in found if item.name[0] != ".")
        return sorted(name for name in names if name.endswith("/") or is_picture(name))


def _is_folder(item: os.DirEntry[str]) -> bool:
    """Without a question to the file system but for links, which may lead nowhere or in circles."""
    return os.path.isdir(item) if item.is_symlink() else item.is_dir()


def _entry(relative: str, path: Path) -> Entry:
    name, sidecar = portable(relative), path.with_suffix(".txt")
    try:
        status = path.stat()
    except OSError as error:
        return rejected_entry(name, refused("source", "cannot be read", error), stamp(path, sidecar))
    now, size = stamp(status, sidecar), status.st_size
    problem = file_problem(status)
    return rejected_entry(name, problem, now, size=size) if problem else Entry(name, now, size=size)


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
