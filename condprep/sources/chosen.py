"""A source of which not all is taken, or not in its own order. Each is a Source, as picklable as the one in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from condprep.sources.base import Source, unsaid
from condprep.types import Entry, Note, Sample


@dataclass(frozen=True)
class Chosen:
    """All of a source; its children choose."""

    source: Source

    @property
    def kind(self) -> str:
        return self.source.kind

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.source.identity

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        return self.source.entries(note)

    def read(self, entry: Entry) -> Sample:
        return self.source.read(entry)


@dataclass(frozen=True)
class FirstInputs(Chosen):
    """The first so many, in the source's own order: nothing behind them is listed."""

    most: int

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        return islice(self.source.entries(note), self.most)


@dataclass(frozen=True)
class NewInputs(Chosen):
    """Those that a dataset does not have."""

    known: Collection[str]  # names that it has

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        return (entry for entry in self.source.entries(note) if entry.name not in self.known)


@dataclass(frozen=True)
class InOrder(Chosen):
    """In the order of these names; those that are not among them come last."""

    names: Sequence[str]

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        found = {entry.name: entry for entry in self.source.entries(note)}
        yield from (found.pop(name) for name in self.names if name in found)
        yield from found.values()


def whole(source: Source) -> Source:
    """The source of which something was chosen."""
    while isinstance(source, Chosen):
        source = source.source
    return source
