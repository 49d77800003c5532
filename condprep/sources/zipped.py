"""Zips of pictures: with captions beside them in the zip, or with a metadata file in it or beside it. Nothing is unpacked."""

from __future__ import annotations

import io
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from condprep.errors import Rejected, SourceError
from condprep.runtime.local_copies import local
from condprep.runtime.seen import Seen
from condprep.runtime.storage import Place
from condprep.sources.base import (
    Where,
    check_as_listed,
    portable,
    rejected_entry,
    seal_of,
    size_of,
    source_place,
    stamp,
    unsaid,
)
from condprep.sources.folder import walk
from condprep.sources.kinds import HIDDEN, is_junk, is_metadata, is_picture, is_zip, kind_left, listing
from condprep.sources.listed import Found, Listed, Listing, name_of
from condprep.sources.sidecars import is_sidecar_name, read_sidecar, sidecar_limit, sidecar_names
from condprep.sources.splits import choose_split, find_splits, read_config
from condprep.sources.text import Captions
from condprep.sources.zip_directory import Member, members, read_member
from condprep.types import Entry, Note, Sample

SEPARATOR = "#"  # between the names of a zip and of its member: no name of a zip has one
MAX_LISTING = 256 << 20  # bytes of a metadata file in a zip, which is held in memory
TWICE = Rejected("source", "the zip holds two members of this name", code="listed-twice")
UNLISTED = "left out: pictures that no listing names"
_Members = Mapping[str, Found | None]  # by their names


@dataclass(frozen=True)
class Held:
    """A metadata file from a zip, as `read_rows` takes one."""

    name: str
    data: bytes

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1]

    def open(self, mode: str = "rb") -> IO[bytes]:
        return io.BytesIO(self.data)


@dataclass(frozen=True)
class ZipSource:
    """The pictures of zips: zip by zip, each in the order of its directory; or, where there is metadata, of its rows.

    Metadata is a file in the zip, which then names what is beside it there, or one beside the zips, which names their members.
    """

    zips: Mapping[str, Place]  # name in the `source` column -> file
    listing: Place | None  # beside the zips
    image_column: str = "file_name"
    caption_column: str | None = None
    gather: bool = True  # all captions of a picture; else the lines of its caption file are one
    split: str | None = None
    kind: str = "zip"

    @property
    def identity(self) -> dict[str, Any]:
        files = [(name, size_of(path)) for name, path in self.zips.items()]
        options = {"image_column": self.image_column, "caption_column": self.caption_column, "split": self.split}
        return {"kind": self.kind, "zips": sha256(json.dumps(files).encode()).hexdigest()} | options

    def seal(self) -> str:
        return seal_of({**self.zips, **({"": self.listing} if self.listing else {})})

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        if self.listing:
            found = self._by_name(self.zips)
            finds = partial(_find, found, "")
            yield from self._listed([Listing(portable(self.listing.name), local(self.listing), finds)], found, note)
            return
        for name, path in self.zips.items():
            own = [member for member in _visible(path, unsaid) if _is_metadata(member)]
            if own:
                found = self._by_name({name: path})
                yield from self._listed([self._listing(name, path, member, found) for member in own], found, note)
            else:
                yield from self._pictures(name, path, note)

    def read(self, entry: Entry) -> Sample:
        path = self.zips[entry.name.partition(SEPARATOR)[0]]
        picture = read_member(path, entry.stamp, entry.offset, entry.size)
        if isinstance(path, Path):
            check_as_listed(entry.stamp, path)
        return Sample(entry.name, picture, entry.text or ())

    def _pictures(self, name: str, path: Place, note: Note) -> Iterator[Entry]:
        """Every picture, with the captions of the text beside it."""
        texts = {m.name: m for m in _visible(path, unsaid) if isinstance(m, Member) and is_sidecar_name(m.name)}
        now, seen, used = stamp(path), set[int](), set[str]()
        for member in _visible(path, note):
            if isinstance(member, str):
                damaged = Rejected("source", member, code="damaged-source")
                yield rejected_entry(f"{name}{SEPARATOR}", damaged, now)
            elif is_picture(member.name):
                sidecar = next((texts[one] for one in sidecar_names(member.name) if one in texts), None)
                used |= {sidecar.name} if sidecar else set()
                yield self._entry(name, path, now, member, sidecar, seen, note)
        for member in _visible(path, unsaid):
            if isinstance(member, Member) and not is_picture(member.name) and member.name not in used:
                note(kind_left(posixpath.basename(member.name)), f"{name}{SEPARATOR}{portable(member.name)}")

    def _entry(
        self,
        name: str,
        path: Place,
        now: str,
        member: Member,
        sidecar: Member | None,
        seen: set[int],
        note: Note,
    ) -> Entry:
        full = f"{name}{SEPARATOR}{portable(member.name)}"
        problem = member.problem
        if hash(full) in seen:
            full, problem = f"{full}@{member.offset}", TWICE
        seen.add(hash(full))
        if problem:
            return rejected_entry(full, problem, now, offset=member.offset, size=member.size)
        try:
            text = self._captions(path, sidecar) if sidecar else Captions(())
        except Rejected as rejected:
            return rejected_entry(full, rejected, now, offset=member.offset, size=member.size)
        if text.note:
            note(text.note, full)
        return Entry(full, now, member.offset, member.size, text.texts)

    def _captions(self, path: Place, sidecar: Member) -> Captions:
        if sidecar.problem or sidecar.size > MAX_LISTING:
            return Captions((), "caption left out: its file in the zip cannot be read")
        try:
            data = read_member(path, stamp(path), sidecar.offset, sidecar.size)
        except Rejected:
            return Captions((), "caption left out: its file in the zip cannot be read")
        return read_sidecar(sidecar.name, data[: sidecar_limit(sidecar.name)], each_line=self.gather)

    def _listed(self, listings: list[Listing], found: _Members, note: Note) -> Iterator[Entry]:
        seen = Seen()
        listed = Listed(listings, self.image_column, self.caption_column, self.gather)
        listed.check_columns()
        yield from listed.entries(note, seen)
        for picture in filter(None, found.values()):
            if picture.name not in seen and is_picture(picture.name):
                note(UNLISTED, picture.name)

    def _listing(self, zip_name: str, path: Place, member: Member | str, found: _Members) -> Listing:
        assert isinstance(member, Member)
        full = f"{zip_name}{SEPARATOR}{portable(member.name)}"
        if member.problem or member.size > MAX_LISTING:
            raise SourceError(f"{full} cannot be read in place: unpack it beside the zip")
        try:
            held = Held(posixpath.basename(member.name), read_member(path, stamp(path), member.offset, member.size))
        except Rejected as rejected:
            raise SourceError(f"{full} cannot be read: {rejected.reason}") from None
        return Listing(full, held, partial(_find, found, posixpath.dirname(member.name)))

    def _by_name(self, zips: Mapping[str, Place]) -> _Members:
        """Member -> where it lies; of two in one zip with one name the first, and None for a name that several zips have."""
        found: dict[str, Found | None] = {}
        for name, path in zips.items():
            now, own = stamp(path), dict[str, Found]()
            for member in _visible(path, unsaid):
                if (
                    isinstance(member, Member)
                    and not member.problem
                    and not is_metadata(posixpath.basename(member.name))
                ):
                    full = name_of(name, f"{name}{SEPARATOR}{member.name}")
                    own.setdefault(member.name, Found(full, now, member.offset, member.size))
            found |= {member: None if member in found else one for member, one in own.items()}
        return found


def _find(members: _Members, folder: str, name: str) -> Found:
    """Raises Rejected for what the zip does not hold, and for what several zips do."""
    for one in (name, name.replace("\\", "/")):
        path = posixpath.normpath(posixpath.join(folder, one))
        if found := members.get(path):
            return found
        if path in members:
            reason = f"several zips have a {name!r}, and the listing does not say which: put one into each zip"
            raise Rejected("source", reason, code="listed-twice")
    raise Rejected("source", f"{name!r} is not in the zip", code="missing-file")


def _visible(path: Place, note: Note) -> Iterator[Member | str]:
    for member in members(path):
        if isinstance(member, Member) and any(is_junk(part) for part in member.name.split("/") if part.strip(".")):
            note(HIDDEN, f"{path.name}{SEPARATOR}{portable(member.name)}")
        else:
            yield member


def _is_metadata(member: Member | str) -> bool:
    return isinstance(member, Member) and is_metadata(posixpath.basename(member.name))


def open_zips(
    where: Where,
    *,
    image_column: str | None,
    caption_column: str | None,
    split: str | None,
    config: str | None,
    gather: bool,
) -> ZipSource:
    """The pictures of a zip, or of the zips of a folder's split. Raises SourceError where there is none, or a split to choose."""
    columns: dict[str, Any] = {"image_column": image_column or "file_name", "caption_column": caption_column}
    place, path = source_place(where), str(where)
    if place.is_file():
        if split is not None or config is not None:
            raise SourceError(f"--split and --config mean nothing for a zip: {path!r} is read as a whole")
        others = listing(place.parent)
        beside = [place.parent / name for name in others if is_metadata(name)]
        alone = len([name for name in others if is_zip(name)]) == 1
        own_listing = beside[0] if len(beside) == 1 and alone else None
        return _checked(ZipSource({portable(place.name, SEPARATOR): place}, own_listing, **columns, gather=gather))
    files = [folder + name for folder, names in walk(place) for name in names if is_zip(name) or is_metadata(name)]
    zips = sorted(name for name in files if is_zip(name))
    splits = find_splits(place, zips, read_config(place, config)) if zips else {}
    if not splits:
        raise SourceError(f"there are no zips at {path!r}")
    chosen = choose_split(splits, split, repr(path))
    own = {portable(name, SEPARATOR): place / name for name in splits[chosen]}
    beside = [place / name for name in files if is_metadata(name)]
    own_listing = beside[0] if len(beside) == 1 and len(splits) == 1 else None
    return _checked(ZipSource(own, own_listing, **columns, gather=gather, split=split))


def _checked(source: ZipSource) -> ZipSource:
    """Raises SourceError for a file that is no zip."""
    for path in source.zips.values():
        next(members(path), None)
    return source
