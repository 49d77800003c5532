"""Captions from several columns, each with a weight: which column a row is learned with is drawn anew each time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc

from condprep.dataset.pairs.open import Pairs
from condprep.dataset.pairs.table import TablePairs
from condprep.dataset.reader import schema
from trainer.data.tables import Names
from trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class Captions:
    """Those of a row, and of several columns how likely each is."""

    texts: tuple[str, ...]  # at least one
    weights: tuple[float, ...] = ()  # empty: all are equally likely
    columns: tuple[int, ...] = ()  # of several with weights, which each is from

    @classmethod
    def of_columns(cls, columns: Sequence[Sequence[str]], weights: Sequence[float]) -> Captions:
        """A column that has several shares its weight out to them; an empty one leaves its own to the others."""
        found = [
            (text, weight / len(texts), number)
            for number, (texts, weight) in enumerate(zip(map(_not_empty, columns), weights, strict=True))
            for text in texts
        ]
        return cls(*zip(*found)) if found else cls(("",))

    def drawn(self, at: float) -> str:
        """at: a draw from [0, 1)."""
        if not self.weights:
            return self.texts[int(at * len(self.texts))]
        *ends, total = accumulate(self.weights)
        return self.texts[bisect_right(ends, at * total)]


def with_captions(pairs: Pairs, columns: Sequence[str], path: str) -> Pairs:
    """With the columns that `text.captions` names, of which the pairs have the first. Raises DataError where one is missing."""
    if not columns:
        return pairs
    if not isinstance(pairs, TablePairs):
        raise DataError(f"text.captions names columns, but {path} has none: it is no table")
    known = [column.name for column in schema(pairs.files[0].path) if _is_text(column.type)]
    if missing := [name for name in columns if name not in known]:
        has = f"the columns of text of {path} are {', '.join(known)}"
        raise DataError(f"text.captions names the column {missing[0]!r}, but {has}")
    return replace(pairs, further_captions=tuple(columns[1:]))


def refuse_empty(table: pa.Table, names: Names, columns: Sequence[str], path: str) -> None:
    """Raises DataError for a column of `text.captions` that has no caption in any row."""
    for number, name in enumerate(columns if table.num_rows else ()):
        column = table.column(names.captions[0 if names.copied else number])
        if not _has_text(pc.list_element(column, number) if names.copied else column):
            raise DataError(f"text.captions: column {name!r} of {path} is empty in every row; leave it out, or fill it")


def _has_text(column: pa.ChunkedArray) -> bool:
    texts = pc.list_flatten(column) if _is_list(column.type) else column
    return bool(pc.any(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)).as_py())


def _not_empty(texts: Sequence[str]) -> list[str]:
    return [text for text in texts if text and not text.isspace()]


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if _is_list(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))
