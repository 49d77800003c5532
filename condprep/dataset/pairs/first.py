"""The first rows of a paired dataset, to look at without all the others."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from condprep.dataset.pairs.base import Made, Pair, Pairs
from condprep.types import Entry, Sample


@dataclass(frozen=True)
class FirstPairs:
    """Those of the rows 0, 1, ... below `most`, and what is no row before them."""

    pairs: Pairs
    most: int

    @property
    def notes(self) -> Sequence[str]:
        return self.pairs.notes

    @property
    def said(self) -> str | None:
        return self.pairs.said

    @property
    def made(self) -> Made | None:
        return self.pairs.made

    @property
    def captioned(self) -> bool:
        return self.pairs.captioned

    @property
    def keyed(self) -> bool:
        return self.pairs.keyed

    @property
    def stamp(self) -> str:
        return f"{self.pairs.stamp} first {self.most}"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**self.pairs.identity, "first": self.most}

    def __iter__(self) -> Iterator[Pair]:
        return self.read()

    def read(self, only: Container[int] | None = None) -> Iterator[Pair]:
        if only is None:
            return takewhile(self._among, self.pairs.read())
        return self.pairs.read(_Below(self.most, only))

    def known_rows(self) -> int | None:
        rows = self.pairs.known_rows()
        return None if rows is None else min(rows, self.most)

    def entries(self) -> Iterator[Entry]:
        return self.pairs.entries()

    def sample(self, entry: Entry) -> Sample:
        return self.pairs.sample(entry)

    def _among(self, pair: Pair) -> bool:
        return pair.row is None or pair.row < self.most


@dataclass(frozen=True)
class _Below(Container[int]):
    """Of the rows that are asked for, those below a number; of the others nothing is asked."""

    most: int
    only: Container[int]

    def __contains__(self, row: object) -> bool:
        return isinstance(row, int) and row < self.most and row in self.only
