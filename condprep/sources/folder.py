"""A folder of pictures, any mix of formats, with the captions that lie beside them."""

from __future__ import annotations

import os
from collections.abc import Container, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from condprep.errors import PassingFault, Rejected, SourceError
from condprep.runtime.retry import GOES_ON, as_fault, is_passing, retried
from condprep.runtime.storage import Place, Remote
from condprep.runtime.stores import Status
from condprep.sources.base import (
    check_as_listed,
    device_of,
    file_problem,
    native,
    portable,
    read_listed,
    refused,
    rejected_entry,
    size_problem,
    stamp,
    unsaid,
)
from condprep.sources.kinds import is_junk, is_picture, kind_left
from condprep.sources.sidecars import (
    find_sidecar,
    is_sidecar,
    read_sidecar,
    sidecar_limit,
    sidecar_names,
    sidecar_places,
)
from condprep.sources.text import Captions
from condprep.types import Entry, Note, Sample

_Child = tuple[str, tuple[str, ...]]  # path of a picture or folder/; of files there that its captions may be in
OTHER_SPLIT = "left out: pictures of other splits"


@dataclass(frozen=True)
class FolderSource:
    """Every picture below `root`, by relative path, in the order of the paths' code points.

    Hidden files and folders, and those that systems leave about, are skipped, and so is the folder `exclude`. Links to files
    are followed. Each real folder is visited once, under the name that sorts first, so links to folders are followed and
    loops are harmless.
    """

    root: Place
    exclude: Place | None = None
    each_line: bool = True  # whether each line of a caption file is a caption; else all of them are one
    split: str | None = None
    only: frozenset[str] | None = None  # of the split: folders, with a slash at the end, and pictures; None: all
    kind: str = "folder"
    device: int = field(init=False, repr=False, compare=False)  # that `root` was on when the source was opened

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", device_of(self.root))

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind} | ({"split": self.split} if self.split else {})

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        """Raises SourceError when `root` itself cannot be listed; a folder below it becomes a problem entry."""
        try:
            pending = retried(partial(self._children, "", note), str(self.root))[::-1]
        except OSError as error:
            raise SourceError(f"the folder {str(self.root)!r} cannot be listed: {error.strerror}") from None
        visited = _there(self.root, self.exclude)
        while pending:
            relative, captions = pending.pop()
            if not relative.endswith("/"):
                yield _entry(relative, self.root / relative, [self.root / one for one in captions])
                continue
            try:
                inode, children = retried(partial(self._visit, relative, visited, note), relative)
                visited.add(inode)
                pending += children[::-1]
            except OSError as error:
                reason = f"the folder cannot be listed: {error.strerror}"
                yield rejected_entry(portable(relative), Rejected("source", reason, code="unreadable-folder"))
        if isinstance(self.root, Remote):
            self.root.forget()  # the plan has it now

    def read(self, entry: Entry) -> Sample:
        path = self.root / native(entry.name)
        try:
            if isinstance(path, Remote):
                text, picture = self._read_objects(path, entry.stamp)
            else:
                sidecar = find_sidecar(path) if entry.stamp.partition(" ")[2] != "-" else None  # as it was listed
                data = read_listed(sidecar, cut=sidecar_limit(sidecar.name)) if sidecar else b""
                picture = read_listed(path)
                check_as_listed(entry.stamp, path, sidecar or path.with_suffix(".txt"))
                text = self._captions(sidecar, data)
            return Sample(entry.name, picture, text.texts, note=text.note)
        except Rejected:
            if device_of(self.root) != self.device:
                raise PassingFault(f"{self.root} is not what was mounted there; put it back. {GOES_ON}") from None
            raise

    def _read_objects(self, path: Remote, stamp: str) -> tuple[Captions, bytes]:
        """The captions and the picture as they were listed: a request each, and none for captions that there are not."""
        own, _, of_text = stamp.partition(" ")
        sidecar, data = None, b""
        for one in sidecar_places(path) if of_text != "-" else ():
            with suppress(FileNotFoundError):
                data = one.read_bytes(Status.of(of_text), sidecar_limit(one.name))
                sidecar = one
                break
        return self._captions(sidecar, data), read_listed(path, status=Status.of(own))

    def _captions(self, sidecar: Place | None, data: bytes) -> Captions:
        return read_sidecar(sidecar.name, data, each_line=self.each_line) if sidecar else Captions(())

    def _visit(self, folder: str, visited: Container[Hashable], note: Note) -> tuple[Hashable, list[_Child]]:
        """A folder's inode and what lies in it, which is nothing where it was visited before."""
        inode = _inode(self.root / folder)
        return inode, [] if inode in visited else self._children(folder, note)

    def _children(self, folder: str, note: Note) -> list[_Child]:
        """Pictures and sub-folders, sorted. A folder's path ends with "/", which makes the order that of whole paths."""
        names = set(_names(self.root, folder))
        pictures = {name for name in names if not is_junk(name) and is_picture(name)}
        folders = {name for name in names if name.endswith("/") and not is_junk(name[:-1])}
        stems = {os.path.splitext(name)[0] for name in pictures}
        for name in sorted(names - pictures - folders):
            if not is_sidecar(name, pictures, stems):
                note(kind_left(name.rstrip("/")), portable(folder + name))
        if self.only is not None and folder not in self.only:
            others = {name for name in pictures if folder + name not in self.only}
            for name in sorted(others):
                note(OTHER_SPLIT, portable(folder + name))
            pictures -= others
        found = sorted(pictures | folders)
        return [(folder + name, tuple(folder + one for one in sidecar_names(name) if one in names)) for name in found]


def walk(root: Place, exclude: Place | None = None) -> Iterator[tuple[str, list[str]]]:
    """Every folder below, with a slash at its end, and the files in it, sorted, without junk; each real folder once.

    Raises SourceError where the root cannot be listed; what cannot be listed below it is left out.
    """
    if not root.is_dir():
        raise SourceError(f"there is no folder {str(root)!r}")
    visited = _there(exclude)
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            inode = _inode(root / folder)
            if inode in visited:
                continue
            visited.add(inode)
            names = [name for name in _names(root, folder) if not is_junk(name.rstrip("/"))]
        except OSError as error:
            if is_passing(error):
                raise as_fault(error, str(root / folder)) from error
            if not folder:
                raise SourceError(f"the folder {str(root)!r} cannot be listed: {error.strerror}") from None
            continue
        yield folder, sorted(name for name in names if not name.endswith("/"))
        pending += sorted((folder + name for name in names if name.endswith("/")), key=_without_slash, reverse=True)


def _names(root: Place, folder: str) -> list[str]:
    """What lies in a folder, in no order; the names of folders end with a slash."""
    if isinstance(root, Remote):
        return root.listing().get(folder, [])
    with os.scandir(root / folder) as found:
        return [f"{item.name}/" if _is_folder(item) else item.name for item in found]


def _without_slash(folder: str) -> str:
    return folder[:-1]


def _is_folder(item: os.DirEntry[str]) -> bool:
    """Without a question to the file system but for links, which may lead nowhere or in circles."""
    return os.path.isdir(item) if item.is_symlink() else item.is_dir()


def _entry(relative: str, path: Place, captions: Sequence[Place]) -> Entry:
    """captions: the files beside it that may have some; the first regular one counts."""
    name = portable(relative)
    sidecar = next((found for found in captions if found.is_file()), path.with_suffix(".txt"))
    if isinstance(path, Remote):
        now, size = stamp(path, sidecar), path.status().size
        problem = size_problem(size)
        return rejected_entry(name, problem, now, size=size) if problem else Entry(name, now, size=size)
    try:
        status = retried(path.stat, relative)
    except OSError as error:
        return rejected_entry(name, refused("source", "cannot be read", error), stamp(path, sidecar))
    now, size = stamp(status, sidecar), status.st_size
    problem = file_problem(status)
    return rejected_entry(name, problem, now, size=size) if problem else Entry(name, now, size=size)


def _there(*folders: Place | None) -> set[Hashable]:
    """What tells those folders that there are."""
    return {_inode(folder) for folder in folders if isinstance(folder, Remote) or (folder and folder.exists())}


def _inode(path: Place) -> Hashable:
    """What tells a folder, by whatever name it is reached."""
    if isinstance(path, Remote):
        return str(path)
    status = path.stat()
    return status.st_dev, status.st_ino
