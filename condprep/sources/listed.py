"""From the rows of listings to entries: each picture once, with the captions of all its rows, wherever it lies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from condprep.errors import Rejected, SourceError
from condprep.runtime.seen import Seen
from condprep.sources.base import CAPTION_COLUMNS, portable, rejected_entry, unsaid
from condprep.sources.metadata import Document, encoding_note, read_rows
from condprep.sources.offered import offer
from condprep.sources.text import read_values
from condprep.types import Entry, Note

LOOKED_AT = 100  # rows that tell the columns
FURTHER = "left out: further captions of a picture (--captions list keeps them)"


class Found(NamedTuple):
    """Where a picture that a row names lies."""

    name: str  # in its source
    stamp: str
    offset: int
    size: int


@dataclass(frozen=True)
class Listing:
    """A listing, and how the pictures that it names are found."""

    name: str  # in its source: "train/metadata.jsonl"
    path: Document
    find: Callable[[str], Found]  # raises Rejected


@dataclass(frozen=True)
class Listed:
    """The pictures that listings name, in the order of their rows; what they do not name is no input.

    A row that cannot be used (malformed, its file missing or outside) is a problem entry called `metadata.jsonl:LINE`.
    """

    listings: Sequence[Listing]
    image_column: str = "file_name"
    caption_column: str | None = None  # None: the first of CAPTION_COLUMNS that a row has
    gather: bool = False  # whether the captions of a picture's further rows are kept

    def entries(self, note: Note, seen: Seen | None = None) -> Iterator[Entry]:
        """seen: gets each picture's name."""
        seen = Seen() if seen is None else seen
        apart = self._apart() if self.gather else {}
        for listing in self.listings:
            for said in filter(None, (encoding_note(listing.path), None if note is unsaid else self._offer(listing))):
                note(said, listing.name)
            for number, found in self._pictures(listing, note):
                if isinstance(found, Rejected):
                    yield rejected_entry(f"{listing.name}:{number}", found)
                elif seen.add(found.name):
                    more = apart.pop(hash(found.name), [])
                    yield replace(found, text=tuple(dict.fromkeys([*(found.text or ()), *more])))
                elif not found.text:
                    again = Rejected("source", f"{found.name!r} was listed before", code="listed-twice")
                    yield rejected_entry(f"{listing.name}:{number}", again)
                elif not self.gather:
                    note(FURTHER, found.name)

    def check_columns(self) -> None:
        """Raises SourceError for a column that the user named and the first rows do not have."""
        for listing in self.listings:
            rows = [row for _, row in islice(read_rows(listing.path), LOOKED_AT) if isinstance(row, dict)]
            known = dict.fromkeys(column for row in rows for column in row)
            for option, column in (("--image-column", self.image_column), ("--caption-column", self.caption_column)):
                if rows and column is not None and column not in known:
                    raise SourceError(
                        f"{listing.name} has no column {column!r}; name one with {option}: {', '.join(known)}"
                    )

    def _offer(self, listing: Listing) -> str | None:
        """What is said where the user named no column of captions, and none of the first rows has one."""
        rows = [row for _, row in islice(read_rows(listing.path), LOOKED_AT) if isinstance(row, dict)]
        if self.caption_column is not None or any(name in row for row in rows for name in CAPTION_COLUMNS):
            return None
        return offer(
            {name for row in rows for name, value in row.items() if name != self.image_column and _is_text(value)}
        )

    def _pictures(self, listing: Listing, note: Note) -> Iterator[tuple[int, Entry | Rejected]]:
        """A picture a row; rows of one picture that follow each other are one where captions are gathered."""
        before: tuple[int, Entry] | None = None
        for number, row in read_rows(listing.path):
            found = self._picture(listing, row, note)
            if before and isinstance(found, Entry) and found.name == before[1].name and self.gather and found.text:
                before = before[0], replace(before[1], text=(before[1].text or ()) + found.text)
                continue
            if before:
                yield before
            before = (number, found) if isinstance(found, Entry) else None
            if isinstance(found, Rejected):
                yield number, found
        if before:
            yield before

    def _apart(self) -> dict[int, list[str]]:
        """The captions of those rows of a picture that do not follow its first one, by the hash of its name."""
        seen, found = Seen(), dict[int, list[str]]()
        for listing in self.listings:
            for _, entry in self._pictures(listing, unsaid):
                if isinstance(entry, Entry) and not seen.add(entry.name):
                    found.setdefault(hash(entry.name), []).extend(entry.text or ())
        return found

    def _picture(self, listing: Listing, row: dict[str, Any] | str, note: Note) -> Entry | Rejected:
        try:
            if isinstance(row, str):
                raise Rejected("source", row, code="bad-listing")
            name = row.get(self.image_column)
            if not isinstance(name, str) or not name:
                raise Rejected("source", f"no {self.image_column}", code="bad-listing")
            found = listing.find(name)
            text = read_values(next((row[column] for column in self._captions if column in row), None))
        except Rejected as rejected:
            return rejected
        if text.note:
            note(text.note, found.name)
        return Entry(found.name, found.stamp, found.offset, found.size, text.texts)

    @property
    def _captions(self) -> Sequence[str]:
        return CAPTION_COLUMNS if self.caption_column is None else (self.caption_column,)


def _is_text(value: Any) -> bool:
    """A string with letters, or a list of those: in CSV numbers are strings, too."""
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(one, str) and any(map(str.isalpha, one)) for one in texts)


def name_of(listing: str, path: str) -> str:
    """The name of a picture, a path in its source; never that of a line of a listing, `metadata.jsonl:3`."""
    return portable(path, ":") if re.search(r":\d+$", path) and path.startswith(f"{listing}:") else portable(path)
