"""WebDataset tars, as img2dataset writes them: 000.jpg, 000.txt and 000.json one after the other. Nothing is unpacked."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from tarfile import TarInfo
from typing import Any

from condprep.errors import Rejected
from condprep.runtime.storage import Place, Remote
from condprep.runtime.stores import Status
from condprep.sources.base import (
    check_as_listed,
    check_there,
    gone,
    portable,
    refused,
    rejected_entry,
    seal_of,
    stamp,
    unsaid,
)
from condprep.sources.kinds import HIDDEN, is_junk, is_picture, kind_left
from condprep.sources.tar import SEPARATOR, member_problem, members, open_tar
from condprep.sources.text import (
    DESCRIBED_BY,
    MAX_CAPTION,
    MAX_DESCRIPTION,
    TOO_LARGE,
    Captions,
    read_captions,
    read_description,
)
from condprep.types import Entry, Note, Sample

MAX_GROUP = 64  # members of one sample; those that follow count as another one, so that memory stays bounded
TWICE = Rejected("source", "the tar holds two members of this name", code="listed-twice")
FURTHER = "left out: further pictures of a sample (--image-column NAME.EXT reads those)"
WITHOUT = "left out: samples without a picture"
Found = tuple[TarInfo, tuple[str, ...], Rejected | None]  # a picture, its captions, and why it cannot be an input


@dataclass(frozen=True)
class WebDatasetSource:
    """The pictures of uncompressed tars: tar by tar as given, and in each by position.

    Neighbouring members that agree up to the first dot of their last component are one sample; a picture whose name goes on
    after another's is a further one of it, as 000.seg.png of 000.jpg. Captions are those of the .txt or .caption that is
    called as the picture or the sample, or else of such a .json, an object. Members are read in place, so their names are
    never used as paths; links, unsafe names and members that are too large are problem entries all the same. A damaged tar
    gives what comes before the damage and one problem entry for the rest.
    """

    tars: Mapping[str, Place]  # name in the `source` column, as `find_tars` gives it -> file
    extension: str | None = None  # "seg.png": the pictures are these members and no others
    caption_field: str | None = None  # captions are this field of the .json; else one of DESCRIBED_BY
    each_line: bool = True  # whether each line of a .txt is a caption; else all of them are one
    kind: str = "webdataset"

    def __post_init__(self) -> None:
        for path in self.tars.values():
            if isinstance(path, Path):  # else it costs a request, and listing it is the first that is done
                open_tar(path).close()

    @property
    def identity(self) -> dict[str, Any]:
        shards = json.dumps([(name, _told_by(path)) for name, path in self.tars.items()])
        options = {"image_column": self.extension, "caption_column": self.caption_field}
        return {"kind": self.kind, "shards": sha256(shards.encode()).hexdigest()} | options

    @property
    def is_told(self) -> bool:
        """Whether the identity alone tells every input: it has the ETags of tars at URLs, which then need not be listed again."""
        return all(isinstance(path, Remote) for path in self.tars.values())

    def seal(self) -> str:
        return seal_of(self.tars)

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        for name, path in self.tars.items():
            now, seen = stamp(path), set[int]()

            def of_tar(kind: str, member: str, tar: str = name) -> None:
                note(kind, f"{tar}{SEPARATOR}{portable(member)}")

            with open_tar(path) as file:
                for item, text, problem in self._pictures(file, of_tar):
                    full = f"{name}{SEPARATOR}{portable(item.name)}"
                    if hash(full) in seen:
                        full, problem = f"{full}@{item.offset}", TWICE
                    seen.add(hash(full))
                    where: dict[str, Any] = {"offset": item.offset_data, "size": item.size, "text": text}
                    yield rejected_entry(full, problem, now, **where) if problem else Entry(full, now, **where)

    def read(self, entry: Entry) -> Sample:
        path = self.tars[entry.name.partition(SEPARATOR)[0]]
        if isinstance(path, Remote):
            return Sample(entry.name, _read_range(path, entry), entry.text or ())
        try:
            with path.open("rb") as file:
                file.seek(entry.offset)
                data = file.read(entry.size)
        except OSError as error:
            check_there(path)
            raise refused("read", f"{path.name!r} cannot be read", error) from None
        if len(data) < entry.size:
            raise Rejected("read", f"{path.name!r} was cut off after it was listed", code="cut-off")
        check_as_listed(entry.stamp, path)
        return Sample(entry.name, data, entry.text or ())

    def _pictures(self, file: io.BufferedReader, note: Note) -> Iterator[Found]:
        """Each picture with its captions and its problem; a nameless one stands for the damaged rest."""
        for key, run in groupby(_visible(members(file), note), _key):
            if key is None:
                for damage in run:
                    yield TarInfo(""), (), Rejected("source", str(damage), code="damaged-source")
            else:
                for group in _groups(run):
                    yield from self._sample(file, key.rstrip("."), group, note)

    def _sample(self, file: io.BufferedReader, key: str, group: Sequence[TarInfo], note: Note) -> Iterator[Found]:
        chosen = self._choose(group)
        if not chosen:
            note(WITHOUT, group[0].name)
        taken = {id(item) for item in chosen}
        for item in group:
            if id(item) in taken:
                continue
            if is_picture(item.name):
                note(FURTHER, item.name)
            elif _split(item)[1] not in ("txt", "caption", "json"):
                note(kind_left(item.name), item.name)
        parts = {_split(item): item for item in group if member_problem(item) is None}
        for item in chosen:
            try:
                text, problem = self._captions(file, key, item, parts), member_problem(item)
            except Rejected as rejected:
                text, problem = Captions(()), rejected
            if text.note:
                note(text.note, item.name)
            yield item, text.texts, problem

    def _choose(self, group: Sequence[TarInfo]) -> list[TarInfo]:
        """The pictures of a sample: with the extension asked for, else all that are no further ones of another."""
        if self.extension:
            wanted = self.extension.lower()
            exact = [item for item in group if _extension(item).lower() == wanted]
            return exact or [item for item in group if item.name.lower().endswith(f".{wanted}")]
        pictures = [item for item in group if is_picture(item.name)]
        stems = {_split(item)[0] for item in pictures}
        return [item for item in pictures if not _goes_on_after(_split(item)[0], stems)]

    def _captions(
        self, file: io.BufferedReader, key: str, picture: TarInfo, parts: Mapping[tuple[str, str], TarInfo]
    ) -> Captions:
        bases = (_split(picture)[0], key)
        called = [*((base, kind) for kind in ("txt", "caption") for base in bases), (picture.name, "txt")]
        plain = next((parts[one] for one in called if one in parts), None)
        if plain and not self.caption_field:
            return read_captions(_head(file, plain, MAX_CAPTION), each_line=self.each_line)
        described = next((parts[base, "json"] for base in bases if (base, "json") in parts), None)
        if not described:
            return Captions(())
        if described.size > MAX_DESCRIPTION:
            return Captions((), TOO_LARGE)
        keys = (self.caption_field,) if self.caption_field else DESCRIBED_BY
        return read_description(_head(file, described, MAX_DESCRIPTION), keys)


def _told_by(path: Place) -> int | str:
    """What of a tar is in the source's identity."""
    return stamp(path) if isinstance(path, Remote) else path.stat().st_size


def _read_range(path: Remote, entry: Entry) -> bytes:
    try:
        return path.read(entry.offset, entry.offset + entry.size, Status.of(entry.stamp).mark)
    except FileNotFoundError:
        raise gone(path) from None


def _visible(found: Iterable[TarInfo | str], note: Note) -> Iterator[TarInfo | str]:
    """Without folders, hidden members and those of the system: a Mac writes `._000.jpg` between the members of a sample."""
    for item in found:
        if isinstance(item, TarInfo) and any(is_junk(part) for part in item.name.split("/") if part.strip(".")):
            note(HIDDEN, item.name)
        elif isinstance(item, str) or not item.isdir():
            yield item


def _groups(run: Iterable[TarInfo | str]) -> Iterator[list[TarInfo]]:
    """A sample, or MAX_GROUP members of it; those that differ in the extension alone stay together."""
    group: list[TarInfo] = []
    for item in run:
        if not isinstance(item, TarInfo):
            continue
        full = len(group) >= MAX_GROUP and (_split(item)[0] != _split(group[-1])[0] or len(group) >= 2 * MAX_GROUP)
        if full:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _goes_on_after(stem: str, stems: set[str]) -> bool:
    """Whether a stem is another one, a dot and more."""
    parts = stem.split(".")
    return any(".".join(parts[:n]) in stems for n in range(1, len(parts)))


def _key(item: TarInfo | str) -> str | None:
    """What the members of a sample share; None for a report of damage."""
    return None if isinstance(item, str) else item.name[: len(item.name) - len(_extension(item))]


def _extension(item: TarInfo) -> str:
    """From the first dot of the last component on: "seg.png" of "a.b/000.seg.png"."""
    return item.name.rpartition("/")[2].partition(".")[2]


def _split(item: TarInfo) -> tuple[str, str]:
    """Up to the last dot of the last component, and what follows in small letters."""
    folder, slash, name = item.name.rpartition("/")
    stem, _, extension = name.rpartition(".") if "." in name else (name, "", "")
    return f"{folder}{slash}{stem}", extension.lower()


def _head(file: io.BufferedReader, item: TarInfo, most: int) -> bytes:
    file.seek(item.offset_data)
    return file.read(min(item.size, most))
