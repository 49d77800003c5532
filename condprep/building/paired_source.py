"""Pairs that are there already, as a source: each picture comes with its own map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from condprep.dataset.pairs.open import Pairs, reopen
from condprep.dataset.pairs.table import TablePairs
from condprep.errors import SourceError
from condprep.sources.base import unsaid
from condprep.types import Entry, Note, Sample


@dataclass(frozen=True)
class PairedSource:
    """A dataset of pairs, of any layout that `condprep verify` reads."""

    pairs: Pairs
    kind: str = "pairs"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": self.kind} | dict(self.pairs.identity)

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        return self.pairs.entries()

    def read(self, entry: Entry) -> Sample:
        return self.pairs.sample(entry)


def open_paired(
    path: str,
    columns: Mapping[str, str | None],
    split: str | None,
    config: str | None = None,
    follow_links: Sequence[Path] = (),
) -> PairedSource:
    """The pairs at `path`. columns: {"image": ..., "condition": ..., "caption": ...}, guessed where they are None.

    Raises SourceError where there are no pairs, or it is not clear which column or split holds them.
    """
    try:
        pairs = reopen(path, columns, config, follow_links)
    except SourceError as error:
        said = "" if "--annotator" in str(error) else ". To make maps for pictures that have none, name an --annotator"
        raise SourceError(f"{error}{said}") from None
    if not isinstance(pairs, TablePairs):
        if split is not None:
            raise SourceError(f"{path!r} has no splits; leave out --split {split}")
        return PairedSource(pairs)
    splits = sorted({file.split for file in pairs.files})
    if split is None and len(splits) > 1:
        raise SourceError(f"{path!r} has the splits {', '.join(splits)}; choose one with --split")
    if split is not None and split not in splits:
        raise SourceError(f"{path!r} has no split {split!r}; there is {', '.join(splits)}")
    return PairedSource(replace(pairs, files=[file for file in pairs.files if split in (None, file.split)]))
