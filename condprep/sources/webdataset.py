"""WebDataset tars, as img2dataset writes them: 000.jpg, 000.txt and 000.json one after the other. Nothing is unpacked."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path
from tarfile import TarInfo
from typing import Any

from condprep.errors import Rejected
from condprep.sources.base import (
    CAPTION_COLUMNS,
    MAX_CAPTION,
    PICTURES,
    caption_values,
    captions,
    check_there,
    is_picture,
    portable,
    refused,
    rejected_entry,
    stamp,
)
from condprep.sources.tar import MAX_HEADER, SEPARATOR, member_problem, members, open_tar
from condprep.types import Entry, Sample

MAX_GROUP = 64  # members of one sample; those that follow count as another one, so that memory stays bounded
TWICE = Rejected("source", "the tar holds two members of this name", code="listed-twice")
Found = tuple[TarInfo, tuple[str, ...], Rejected | None]  # a picture, its captions, and why it cannot be an input


@dataclass(frozen=True)
class WebDatasetSource:
    """The pictures of uncompressed tars: tar by tar as given, and in each by position.

    Neighbouring members that agree up to the first dot of their last component are one sample. Its captions are those
    of its .txt, or else the "text" or "caption" in its .json. Members are read in place, so their names are never used
    as paths; links, unsafe names and members that are too large are problem entries all the same. A damaged tar gives
    what comes before the damage and one problem entry for the rest.
    """

    tars: Mapping[str, Path]  # name in the `source` column, as `find_tars` gives it -> file
    extension: str | None = None  # "seg.png": the pictures are these members and no others
    caption_field: str | None = None  # captions are this field of the .json
    kind: str = "webdataset"

    def __post_init__(self) -> None:
        for path in self.tars.values():
            open_tar(path).close()

    @property
    def identity(self) -> dict[str, Any]:
        shards = json.dumps([(name, path.stat().st_size) for name, path in self.tars.items()])
        options = {"image_column": self.extension, "caption_column": self.caption_field}
        return {"kind": self.kind, "shards": sha256(shards.encode()).hexdigest()} | options

    def entries(self) -> Iterator[Entry]:
        for name, path in self.tars.items():
            now, seen = stamp(path), set[int]()
            with open_tar(path) as file:
                for item, text, problem in self._pictures(file):
                    full = f"{name}{SEPARATOR}{portable(item.name)}"
                    if hash(full) in seen:
                        full, problem = f"{full}@{item.offset}", TWICE
                    seen.add(hash(full))
                    where: dict[str, Any] = {"offset": item.offset_data, "size": item.size, "text": text}
                    yield rejected_entry(full, problem, now, **where) if problem else Entry(full, now, **where)

    def read(self, entry: Entry) -> Sample:
        path = self.tars[entry.name.partition(SEPARATOR)[0]]
        try:
            with path.open("rb") as file:
                file.seek(entry.offset)
                data = file.read(entry.size)
        except OSError as error:
            check_there(path)
            raise refused("read", f"{path.name!r} cannot be read", error) from None
        if len(data) < entry.size:
            raise Rejected("read", f"{path.name!r} was cut off after it was listed", code="cut-off")
        return Sample(entry.name, data, entry.text or ())

    def _pictures(self, file: io.BufferedReader) -> Iterator[Found]:
        """Each picture with its captions and its problem; a nameless one stands for the damaged rest."""
        for key, run in groupby(members(file), _key):
            if key is None:
                for damage in run:
                    yield TarInfo(""), (), Rejected("source", str(damage), code="damaged-source")
                continue
            while group := [item for item in islice(run, MAX_GROUP) if isinstance(item, TarInfo)]:
                yield from self._sample(file, group)

    def _sample(self, file: io.BufferedReader, group: Sequence[TarInfo]) -> Iterator[Found]:
        found = self._choose(group)
        text: tuple[str, ...] = ()
        problem = None
        try:
            text = self._captions(file, group) if found else ()
        except Rejected as rejected:
            problem = rejected
        for item in found:
            yield item, text, member_problem(item) or problem

    def _choose(self, group: Sequence[TarInfo]) -> list[TarInfo]:
        """The pictures of a sample: with the extension asked for, else 000.jpg, else whatever ends as a picture does."""
        files = [item for item in group if not item.isdir() and not item.name.rpartition("/")[2].startswith(".")]
        if self.extension:
            return [item for item in files if _extension(item) == self.extension]
        plain = [item for item in files if _extension(item).lower() in PICTURES]
        return plain or [item for item in files if is_picture(item.name)]

    def _captions(self, file: io.BufferedReader, group: Sequence[TarInfo]) -> tuple[str, ...]:
        parts = {_extension(item): item for item in group if member_problem(item) is None}
        if "txt" in parts and not self.caption_field:
            return captions(_head(file, parts["txt"], MAX_CAPTION))
        if "json" not in parts:
            return ()
        try:
            values = dict(json.loads(_head(file, parts["json"], MAX_HEADER)))
        except (TypeError, ValueError, RecursionError):
            return ()
        fields = (self.caption_field,) if self.caption_field else CAPTION_COLUMNS
        return caption_values(next((values[name] for name in fields if name in values), None))


def _key(item: TarInfo | str) -> str | None:
    """What the members of a sample share; None for a report of damage."""
    return None if isinstance(item, str) else item.name[: len(item.name) - len(_extension(item))]


def _extension(item: TarInfo) -> str:
    """From the first dot of the last component on: "seg.png" of "a.b/000.seg.png"."""
    return item.name.rpartition("/")[2].partition(".")[2]


def _head(file: io.BufferedReader, item: TarInfo, most: int) -> bytes:
    file.seek(item.offset_data)
    return file.read(min(item.size, most))
