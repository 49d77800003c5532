"""An imagefolder: pictures listed, with their captions, in metadata.jsonl, metadata.csv or metadata.parquet, split by split."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from condprep.errors import Rejected, SourceError
from condprep.runtime.local_copies import local
from condprep.runtime.retry import retried
from condprep.runtime.seen import Seen
from condprep.runtime.storage import Place, Remote
from condprep.runtime.stores import Status
from condprep.sources.base import (
    Source,
    Where,
    check_as_listed,
    file_problem,
    native,
    portable,
    read_listed,
    refused,
    size_problem,
    source_place,
    stamp,
    unsaid,
)
from condprep.sources.folder import OTHER_SPLIT, FolderSource, walk
from condprep.sources.kinds import existing_folder, is_metadata, is_picture
from condprep.sources.listed import Found, Listed, Listing, name_of
from condprep.sources.metadata import read_rows
from condprep.sources.reach import Reach
from condprep.sources.splits import choose_split, find_splits, read_config
from condprep.types import Entry, Note, Sample

UNLISTED = "left out: pictures that no listing names"
UNUSED = "not used: a metadata file of no split; give its path as the source to read it"


@dataclass(frozen=True)
class ImagefolderSource:
    """The rows of the metadata files of a split, file by file; pictures that they do not name are no inputs.

    A row names its picture relative to its metadata file, and never outside that folder; links lead as far as `reach`.
    """

    root: Place
    listings: tuple[str, ...]  # relative to the root
    image_column: str = "file_name"
    caption_column: str | None = None
    gather: bool = True
    split: str | None = None
    reach: Reach = field(default_factory=lambda: Reach(None))
    exclude: Place | None = None
    only: frozenset[str] | None = None  # folders and pictures of the split; None: all
    filtered: bool = False  # whether rows of other splits are among those of the listings
    unused: tuple[str, ...] = ()  # metadata files that lie there and are not those of the split
    kind: str = "imagefolder"
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digests = [f"{name} {_sha256(local(self.root / name))}" for name in self.listings]
        object.__setattr__(self, "digest", sha256("\0".join(digests).encode("utf-8", "surrogateescape")).hexdigest())
        self._listed.check_columns()

    @property
    def identity(self) -> dict[str, Any]:
        columns = {"image_column": self.image_column, "caption_column": self.caption_column}
        return {
            "kind": self.kind,
            "metadata": list(self.listings),
            "sha256": self.digest,
            "split": self.split,
        } | columns

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        seen = Seen()
        for entry in self._listed.entries(note, seen):
            if self.filtered and self.only and not entry.problem and not _holds(self.only, native(entry.name)):
                note(OTHER_SPLIT, entry.name)
            else:
                yield entry
        for name in self.unused:
            note(UNUSED, portable(name))
        if note is not unsaid:
            self._note_others(note, seen)

    def read(self, entry: Entry) -> Sample:
        name = native(entry.name)
        path = None if os.path.isabs(name) else self.reach.real(name)
        if path is None:
            raise Rejected("read", f"{entry.name!r} is outside the folder", code="outside-source")
        status = Status.of(entry.stamp) if isinstance(path, Remote) else None
        picture = read_listed(path, status=status)
        if isinstance(path, Path):
            check_as_listed(entry.stamp, path)
        return Sample(entry.name, picture, entry.text or ())

    def describes(self, listing: str, inside: Container[str]) -> bool:
        """Whether a listing names a picture of the split, whose pictures or their folders are `inside`."""
        folder = posixpath.dirname(listing)
        names = (
            row.get(self.image_column) for _, row in read_rows(local(self.root / listing)) if isinstance(row, dict)
        )
        return any(isinstance(name, str) and _holds(inside, self._path(folder, name)) for name in names)

    @property
    def _listed(self) -> Listed:
        listings = [
            Listing(portable(name), local(self.root / name), partial(self._find, name)) for name in self.listings
        ]
        return Listed(listings, self.image_column, self.caption_column, self.gather)

    def _find(self, listing: str, name: str) -> Found:
        """Raises Rejected for a picture that is missing, or that leaves the listing's folder by `..` or by a link."""
        folder, file = posixpath.split(listing)
        path = self._path(folder, name)
        inside = posixpath.relpath(path, folder or ".")
        real = None if os.path.isabs(name) or inside.startswith("../") or inside == ".." else self.reach.real(path)
        if real is None:
            raise Rejected("read", f"{name!r} is outside the folder of {file}", code="outside-source")
        try:
            size, problem = _judged(real, name)
        except OSError as error:
            raise refused("source", f"{name!r} cannot be read", error) from None
        if problem:
            raise Rejected("source", f"{name!r}: {problem.reason}", code=problem.code)
        return Found(name_of(listing, path), stamp(real), 0, size)

    def _path(self, folder: str, name: str) -> str:
        r"""Relative to the root; backslashes separate, as in `images\a.jpg`, unless a file is called like that."""
        literal, slashed = (posixpath.normpath(posixpath.join(folder, one)) for one in (name, name.replace("\\", "/")))
        return slashed if slashed != literal and not _exists(self.root / literal) else literal

    def _note_others(self, note: Note, seen: Seen) -> None:
        """What the folder holds beside: pictures that no row names, and files of other kinds."""
        others = FolderSource(self.root, self.exclude, only=self.only)
        for entry in others.entries(lambda kind, name: None if _is_metadata(name) else note(kind, name)):
            if entry.name not in seen:
                note(UNLISTED, entry.name)


def open_imagefolder(
    where: Where,
    *,
    image_column: str | None,
    caption_column: str | None,
    split: str | None,
    config: str | None,
    gather: bool,
    also: tuple[Path, ...] = (),
    exclude: Place | None = None,
) -> Source:
    """The pictures of a folder's split that metadata files name; all of them, where it has no metadata file.

    path: a folder, or a listing, which then is the only one. Raises SourceError where there is none, or a split is to be chosen.
    """
    columns: dict[str, Any] = {"image_column": image_column or "file_name", "caption_column": caption_column}
    found, path = source_place(where), str(where)
    if found.is_file():
        if split is not None:
            raise SourceError(f"{path!r} is a listing and has no splits; leave out --split {split}")
        root = found.parent
        return ImagefolderSource(
            root, (found.name,), **columns, gather=gather, reach=Reach(root, also), exclude=exclude
        )
    root = existing_folder(found)
    chosen = read_config(root, config)
    listings, pictures = _survey(root, exclude, each="data_files" in chosen)
    splits = find_splits(root, [*listings, *map(_stand_in, pictures)], chosen)
    if not listings and split is None and len(splits) < 2:
        raise SourceError(f"there is no metadata.jsonl, metadata.csv or metadata.parquet in {path!r}")
    split = choose_split(splits, split, repr(path))
    files = {*splits[split]}
    inside = frozenset(name for name in pictures if _stand_in(name) in files)
    only = None if len(inside) == len(pictures) else inside
    own = tuple(name for name in listings if name in files)
    free = tuple(name for name in listings if not any(name in of for of in splits.values()))
    source = ImagefolderSource(
        root, own, **columns, gather=gather, split=split, reach=Reach(root, also), exclude=exclude
    )
    if not own:
        used = tuple(name for name in free if source.describes(name, inside))
        source = replace(source, listings=used, filtered=only is not None)
    if not source.listings:
        return FolderSource(root, exclude, gather, split, only)
    _check_one_each(path, source.listings)
    return replace(source, only=only, unused=tuple(name for name in free if name not in source.listings))


def _is_metadata(name: str) -> bool:
    return is_metadata(posixpath.basename(name))


def _survey(root: Place, exclude: Place | None, each: bool) -> tuple[list[str], list[str]]:
    """The metadata files, and the folders that hold pictures; each: the pictures instead."""
    listings, pictures = [], []
    for folder, names in walk(root, exclude):
        listings += [folder + name for name in names if is_metadata(name)]
        found = (name for name in names if is_picture(name))
        pictures += [folder + name for name in found] if each else [folder] * any(found)
    return listings, pictures


def _holds(inside: Container[str], path: str) -> bool:
    """Whether a picture, or its folder, is among those."""
    folder, slash, _ = path.rpartition("/")
    return path in inside or folder + slash in inside


def _stand_in(name: str) -> str:
    """For the pictures of a folder: pictures' own names tell no splits, or one called test.jpg would hide all others."""
    return f"{name}picture.jpg" if name.endswith("/") or not name else name


def _check_one_each(path: str, listings: Sequence[str]) -> None:
    """Raises SourceError where a folder has two metadata files."""
    folders = [posixpath.dirname(name) for name in listings]
    if twice := [name for name, folder in zip(listings, folders) if folders.count(folder) > 1]:
        raise SourceError(f"{path!r} holds {', '.join(twice)}; give the path of one of them")


def _judged(found: Place, name: str) -> tuple[int, Rejected | None]:
    """Its bytes, and why it cannot be an input. Raises OSError."""
    if isinstance(found, Remote):
        return (size := found.status().size), size_problem(size)
    status = retried(found.stat, name)
    return status.st_size, file_problem(status)


def _exists(path: Place) -> bool:
    """Whether there is something of that name, if only a link that leads nowhere."""
    return path.exists() if isinstance(path, Remote) else os.path.lexists(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
