"""Pairs in loose files: two folders matched by stem, or a listing such as fill50k's prompt.json."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from condprep.dataset.pairs.base import (
    CONDITION_NAMES,
    IMAGE_NAMES,
    Columns,
    Pair,
    choose_columns,
    digest,
    kind_of_name,
    readable,
)
from condprep.errors import Rejected, SourceError
from condprep.runtime.seen import Seen
from condprep.sources.base import (
    check_as_listed,
    name_in,
    native,
    portable,
    read_listed,
    read_regular,
    rejected_entry,
    stamp,
)
from condprep.sources.folder import FolderSource, walk
from condprep.sources.kinds import is_picture, listing
from condprep.sources.metadata import read_rows
from condprep.sources.reach import Reach
from condprep.sources.sidecars import find_sidecar
from condprep.sources.text import read_values
from condprep.types import Entry, Sample

LISTINGS = ("prompt.json", "prompt.jsonl", "metadata.jsonl", "metadata.csv", "metadata.parquet")
READERS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
LOOKED_AT = 100  # rows of a listing that tell its columns


@dataclass(frozen=True)
class FolderPairs:
    """`image/a/1.jpg` and `condition/a/1.png`: the same path below two folders, but for the extension.

    Captions stand in `image/a/1.txt`. A picture without a map, or a map without a picture, is a pair without row number.
    """

    root: Path
    image: str
    condition: str
    notes: Sequence[str]
    captioned: bool
    keyed: bool = False
    made: None = None

    @property
    def said(self) -> str | None:
        return kind_of_name(self.condition)

    @property
    def stamp(self) -> str:
        folders = (FolderSource(self.root / name) for name in (self.image, self.condition))
        return digest(f"{entry.name} {entry.stamp}" for folder in folders for entry in folder.entries())

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"image": self.image, "condition": self.condition}

    def __iter__(self) -> Iterator[Pair]:
        return self.read()

    def read(self, only: Container[int] | None = None) -> Iterator[Pair]:
        numbers = count()
        for entry in self.entries():
            key = _stem(entry.name.partition("/")[2])
            row = next(numbers) if entry.condition else None
            if only is None or (row is not None and row in only):
                yield self._pair(row, key, entry) if entry.condition else Pair(None, key, problem=entry.problem)

    def _pair(self, row: int | None, key: str, entry: Entry) -> Pair:
        try:
            if entry.problem:
                raise Rejected("read", f"{entry.name}: {entry.problem}", code=entry.code or "")
            sample = self.sample(entry)
        except Rejected as rejected:
            paths = (self.root / native(name or "") for name in (entry.name, entry.condition))
            image, condition = (readable(partial(read_listed, path)) for path in paths)
            return Pair(row, key, image, condition, problem=rejected.reason, source=entry.name)
        return Pair(row, key, sample.data, sample.condition or b"", list(sample.text), source=entry.name)

    def known_rows(self) -> int | None:
        return sum(entry.condition is not None for entry in self.entries())

    def entries(self) -> Iterator[Entry]:
        """Those with a map have its path; pictures without one, maps without a picture and second maps have a problem.

        A map is that of the picture of its very name, else of the first one that differs in the extension.
        """
        image, condition = portable(self.image), portable(self.condition)
        images, conditions = FolderSource(self.root / self.image), FolderSource(self.root / self.condition)
        same, maps, doubles = _by_name(conditions, _names(self.root / self.image))
        for entry in images.entries():
            stem, name = _stem(entry.name), f"{image}/{entry.name}"
            if found := entry.name if entry.name in same else maps.pop(stem, None):
                now = f"{entry.stamp} {stamp(conditions.root / native(found))}"
                yield replace(entry, name=name, stamp=now, condition=f"{condition}/{found}")
            else:
                alone = f"{name} has no map of its own: there is no {condition}/{stem}.*"
                problem, code = (entry.problem, entry.code) if entry.problem else (alone, "no-map")
                yield replace(entry, name=name, problem=problem, code=code)
        taken = set(map(_stem, same))
        doubles += [maps.pop(stem) for stem in taken & maps.keys()]
        for stem, found in maps.items():
            name = f"{condition}/{found}"
            alone = f"{name} has no picture of its own: there is no {image}/{stem}.*"
            yield rejected_entry(name, Rejected("source", alone, code="no-picture"))
        for found in sorted(doubles):
            name = f"{condition}/{found}"
            second = f"{name} is a second map of the same picture"
            yield rejected_entry(name, Rejected("source", second, code="second-map"))

    def sample(self, entry: Entry) -> Sample:
        of_picture, _, of_map = entry.stamp.rpartition(" ")
        found = FolderSource(self.root).read(replace(entry, stamp=of_picture))
        path = self.root / native(entry.condition or "")
        condition = read_listed(path)
        check_as_listed(of_map, path)
        return replace(found, condition=condition)


def _by_name(maps: FolderSource, pictures: Container[str]) -> tuple[set[str], dict[str, str], list[str]]:
    """Files called as pictures are; of the others stem -> file name, in order; and those whose stem was taken."""
    same, found, doubles = set[str](), dict[str, str](), list[str]()
    for entry in maps.entries():
        if entry.name in pictures:
            same.add(entry.name)
        elif found.setdefault(_stem(entry.name), entry.name) != entry.name:
            doubles.append(entry.name)
    return same, found, doubles


def _names(folder: Path) -> set[str]:
    """Of all files below."""
    return {portable(below + name) for below, names in walk(folder) for name in names}


def _stem(name: str) -> str:
    """ "a/1.jpg" -> "a/1"."""
    return os.path.splitext(name)[0]


@dataclass(frozen=True)
class ListedPairs:
    """The rows of a listing that names the picture and the map of each pair, relative to its own folder."""

    listing: Path
    columns: Columns
    reach: Reach
    keyed: bool = False
    made: None = None

    @property
    def notes(self) -> Sequence[str]:
        return self.columns.notes

    @property
    def said(self) -> str | None:
        return kind_of_name(self.columns.condition)

    @property
    def captioned(self) -> bool:
        return self.columns.caption is not None

    @property
    def stamp(self) -> str:
        roles, rows = (self.columns.image, self.columns.condition), read_rows(self.listing)
        named = (values.get(role) for _, values in rows if isinstance(values, dict) for role in roles)
        paths = (self._real(name) for name in named if isinstance(name, str))
        return digest(chain([stamp(self.listing)], (stamp(path) if path else "-" for path in paths)))

    def __iter__(self) -> Iterator[Pair]:
        return self.read()

    def read(self, only: Container[int] | None = None) -> Iterator[Pair]:
        for row, (number, values) in enumerate(read_rows(self.listing)):
            if only is not None and row not in only:
                continue
            if isinstance(values, str):
                yield Pair(row, f"{self.listing.name}:{number}", problem=values)
            else:
                yield self._pair(row, values)

    @property
    def identity(self) -> Mapping[str, Any]:
        columns = {role: getattr(self.columns, role) for role in ("image", "condition", "caption")}
        return {"listing": self.listing.name} | columns

    def known_rows(self) -> int | None:
        return sum(1 for _ in read_rows(self.listing))

    def entries(self) -> Iterator[Entry]:
        """A row that cannot be used is a problem entry called `prompt.json:LINE`; the second row of a picture `1.jpg#2`."""
        seen, times = Seen(), Counter[str]()
        for number, values in read_rows(self.listing):
            try:
                if isinstance(values, str):
                    raise Rejected("source", values, code="bad-listing")
                entry = self._entry(values)
                while not seen.add(entry.name + _again(time := times[entry.name])):
                    times[entry.name] = max(1, time) + 1
                yield replace(entry, name=entry.name + _again(time), offset=time)
            except Rejected as rejected:
                yield rejected_entry(f"{self.listing.name}:{number}", rejected)

    def _entry(self, values: Mapping[str, Any]) -> Entry:
        image, condition = (self._path(values, column) for column in (self.columns.image, self.columns.condition))
        text = read_values(values.get(self.columns.caption)).texts if self.columns.caption else ()
        name, of_map = (str(values[column]) for column in (self.columns.image, self.columns.condition))
        now = stamp(image, condition)
        return Entry(name_in(self.listing, name), now, text=text, condition=portable(of_map))

    def sample(self, entry: Entry) -> Sample:
        name = entry.name.removesuffix(_again(entry.offset))
        named = {self.columns.image: native(name), self.columns.condition: native(entry.condition or "")}
        image, condition = (self._file(named, column) for column in (self.columns.image, self.columns.condition))
        return Sample(entry.name, image, entry.text or (), condition=condition)

    def _pair(self, row: int, values: Mapping[str, Any]) -> Pair:
        name = values.get(self.columns.image)
        key = portable(name) if isinstance(name, str) else f"{self.listing.name}:{row}"
        caption = values.get(self.columns.caption) if self.columns.caption else None
        columns = (self.columns.image, self.columns.condition)
        try:
            image, condition = (self._file(values, column) for column in columns)
        except Rejected as rejected:
            image, condition = (readable(partial(self._file, values, column)) for column in columns)
            return Pair(row, key, image, condition, caption, rejected.reason, source=key)
        return Pair(row, key, image, condition, caption, source=key)

    def _file(self, values: Mapping[str, Any], column: str) -> bytes:
        return read_regular(self._path(values, column))

    def _real(self, name: str) -> Path | None:
        """The real path of what a row names, where it is there and within reach."""
        return next(filter(None, map(self.reach.existing, dict.fromkeys((name, name.replace("\\", "/"))))), None)

    def _path(self, values: Mapping[str, Any], column: str) -> Path:
        """The real path of a named file. Raises Rejected where it is missing or leaves the folder, by `..` or by a link."""
        name = values.get(column)
        if not isinstance(name, str) or not name:
            raise Rejected("read", f"no {column!r}", code="bad-listing")
        real = self._real(name)
        if real is None and self.reach.real(name):
            reason = f"{column} {name!r:.200} is missing or unreadable"
            raise Rejected("read", reason, code="missing-file") from None
        if real is None:
            reason = f"{column} {name!r:.200} is outside the folder of {self.listing.name}"
            raise Rejected("read", reason, code="outside-source")
        return real


def _again(time: int) -> str:
    """What tells the row from those of the same picture before it; 0: nothing, it is the first."""
    return f"#{time}" if time else ""


def open_listing(path: Path, wanted: Mapping[str, str | None], also: tuple[Path, ...] = ()) -> ListedPairs:
    """Pairs of a listing. Raises SourceError where it names no picture and map."""
    rows = [row for _, row in islice(read_rows(path), LOOKED_AT) if isinstance(row, dict)]
    known = dict.fromkeys(column for row in rows for column in row)
    pictures = [name for name in known if any(_names_picture(row.get(name)) for row in rows)]
    columns = choose_columns(pictures, [name for name in known if name not in pictures], wanted)
    return ListedPairs(path, columns, Reach(path.parent, also))


def _names_picture(value: Any) -> bool:
    return isinstance(value, str) and is_picture(value)


def find_listing(folder: Path) -> Path | None:
    """The listing in a folder, prompt.json before metadata."""
    names = listing(folder)
    return next((folder / name for name in LISTINGS if name in names), None)


def _holds_pictures(folder: Path) -> bool:
    with suppress(SourceError):  # one that nobody may read, as lost+found
        return folder.is_dir() and next(FolderSource(folder).entries(), None) is not None
    return False


def open_folders(root: Path, wanted: Mapping[str, str | None]) -> FolderPairs:
    """Pairs of two folders. Raises SourceError where it is not clear which two."""
    if wanted["caption"]:
        raise SourceError(
            "--caption-column means nothing for two folders; captions are in NAME.txt beside the pictures"
        )
    found = [name for name in listing(root) if _holds_pictures(root / name)]
    if not found:
        loose = f"; to make maps for the pictures in it, {_makes(root)}" if _holds_pictures(root) else ""
        raise SourceError(
            f"{str(root)!r} holds no dataset: no Arrow, no Parquet, no listing, no two folders of pictures{loose}"
        )
    try:
        columns = choose_columns(found, [], wanted)
    except SourceError:
        if len(found) > 1 and not (wanted["image"] or wanted["condition"]) and not _share_names(root, found):
            where = ", ".join(f"{name}/" for name in found)
            raise SourceError(
                f"{str(root)!r} holds no pairs: of the pictures in {where} none has a map, which is a picture of the same name "
                f"in another folder; {_makes(root)}"
            ) from None
        raise
    notes = [] if columns.image == IMAGE_NAMES[0] and columns.condition in CONDITION_NAMES else [_taken(columns)]
    pictures = FolderSource(root / columns.image)
    first = (pictures.root / native(entry.name) for entry in islice(pictures.entries(), LOOKED_AT))
    captioned = any(map(find_sidecar, first))
    if not captioned:
        notes.append("no captions were found (NAME.txt beside the pictures); they are not checked")
    return FolderPairs(root, columns.image, columns.condition, notes, captioned)


def _makes(root: Path) -> str:
    return f"`condprep build {shlex.quote(str(root))} --annotator NAME --out ds/` makes them"


def _share_names(root: Path, folders: Sequence[str]) -> bool:
    """Whether a picture of one folder has the name of one in another."""
    seen: set[str] = set()
    for folder in folders:
        stems = {_stem(entry.name) for entry in FolderSource(root / folder).entries()}
        if seen & stems:
            return True
        seen |= stems
    return False


def _taken(columns: Columns) -> str:
    return f"taking {columns.image}/ for the pictures and {columns.condition}/ for the condition maps"
