"""The rows of a dataset, by number: encoded pictures and maps, captions, keypoints."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from condprep.dataset.pairs.base import read_transform
from condprep.dataset.pairs.open import Pairs, open_pairs
from condprep.dataset.pairs.table import TablePairs, is_picture
from condprep.dataset.reader import schema
from condprep.errors import Rejected, UsageError
from condprep.images.decode import decode
from condprep.types import CONDITION_KINDS
from condprep.verification.features import ACCEPTED, classify, measure_features
from trainer.data.captions import Captions, refuse_empty, with_captions
from trainer.data.held_out import chosen
from trainer.data.tables import Names, open_table
from trainer.errors import DataError
from trainer.recipe.recipe import Data, Text

PLAIN = Text()
LEFT = "but "  # of a part: the rows that are not held out
LOOKED_AT = 16  # maps that tell the kind of a dataset which does not say it


@dataclass(frozen=True, slots=True)
class Row:
    """One pair, encoded as it is stored."""

    key: str
    image: bytes
    conditions: tuple[bytes, ...]  # one, or one of each kind
    captions: tuple[str, ...]  # at least one
    columns: tuple[int, ...] = ()  # which each caption is from, where there are several with weights
    keypoints: Mapping[str, Any] | None = None  # of poses, in OpenPose's layout
    mask: bytes | None = None  # what counts of it, where the recipe names a column of masks


@dataclass(frozen=True)
class Rows:
    """The rows of one split; `rows[3]` reads one. Many threads may read."""

    table: pa.Table
    names: Names
    numbers: Sequence[int]  # those that are used, of the table
    split: str
    part: str  # of the split, where a recipe holds some of its rows out; else ""
    whole: int  # rows of the split, or of that part, be they used or not
    kinds: tuple[
        str | None, ...
    ]  # of the conditions, each one of condprep.types.CONDITION_KINDS; None: it is not clear
    stamp: str  # of the files and of what is read from them; changes when one of the two does
    notes: Sequence[str]  # what was guessed
    conditions: tuple[str, ...]  # their columns, as the dataset calls them: a copy has other names
    weights: tuple[float, ...] = ()  # of each column of captions, where there are several

    @property
    def kind(self) -> str | None:
        """Of the conditions, where they are of one."""
        return self.kinds[0] if len(self.kinds) == 1 else None

    def alone(self, number: int) -> Self:
        """The same with the conditions of that number alone."""
        names = replace(self.names, condition=self.names.conditions[number], further_conditions=())
        return replace(self, names=names, kinds=(self.kinds[number],), conditions=(self.conditions[number],))

    @property
    def called(self) -> str:
        """What progress calls them."""
        return f"held-out rows of {self.split}" if self.part and not self.part.startswith(LEFT) else self.split

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Row:
        image, *conditions = (_bytes(self._value(name, number)) for name in (self.names.image, *self.names.conditions))
        keypoints, mask = self._value(self.names.keypoints, number), self.names.mask and self.mask(number)
        captions = self._captions(number)
        return Row(self.key(number), image, (*conditions,), captions.texts, captions.columns, keypoints, mask or None)

    def mask(self, number: int) -> bytes:
        """What counts of a row, an encoded picture; b"" where the row has none."""
        return _bytes(self._value(self.names.mask, number) or b"")

    def key(self, number: int) -> str:
        """What the dataset calls a row."""
        key = self._value(self.names.key, number)
        return f"{self.split}:{self.numbers[number]}" if key is None else str(key)

    def captions(self, number: int) -> tuple[str, ...]:
        return self._captions(number).texts

    def caption(self, number: int, at: float) -> str:
        """One of a row's, by a draw from [0, 1)."""
        return self._captions(number).drawn(at)

    def _captions(self, number: int) -> Captions:
        values = [self._value(name, number) for name in self.names.captions]
        columns = values[0] if self.names.copied else values
        if self.weights:
            return Captions.of_columns([_texts(column) for column in columns], self.weights)
        return Captions(tuple(columns[0]) or ("",) if isinstance(columns[0], list) else (columns[0],))

    def transform(self, number: int) -> list[float] | None:
        """[sx, 0, tx, 0, sy, ty]: the way from the source's pixels to the stored ones, where the dataset says it."""
        return read_transform(self._value(self.names.transform, number))

    def _value(self, column: str | None, number: int) -> Any:
        return column and self.table.column(column)[self.numbers[number]].as_py()


def _texts(value: Any) -> list[str]:
    """What a column of captions holds of a row; nothing where it is empty."""
    return [text for text in (value if isinstance(value, list) else [value]) if text is not None]


def _bytes(value: Any) -> bytes:
    return bytes(value["bytes"] if isinstance(value, dict) else value)


def open_rows(
    data: Data, split: str | float, copies: Path, text: Text = PLAIN, kinds: Sequence[str | None] = ()
) -> Rows:
    """The rows of a split, or those of `data.split` that a share of it holds out. copies: folder for what cannot be read by number.

    kinds: of the conditions as the training knows them, where the dataset does not say; else they are told by their pixels.
    Raises DataError in the recipe's words: no such dataset, split or column, other conditions than `data.kind`.
    """
    held_out = not isinstance(split, str)
    name = data.split if held_out else str(split)
    pairs = pairs_of(data, name, text)
    stamp, said = stamp_of(pairs, data, text), said_kinds(pairs, data, text)
    known = tuple(a or b for a, b in zip(said, kinds)) if kinds else said
    table, names = open_table(pairs, copies, stamp, data.path)
    refuse_empty(table, names, text.columns, data.path)
    parted = data.share and name == data.split
    whole: Sequence[int] = chosen(table, names, data, held_out) if parted else range(table.num_rows)
    part = f"{'' if held_out else LEFT}{data.share} by {data.validation_by}" if parted else ""
    weights = tuple(text.captions[one] for one in text.columns)
    used, conditions = spread(whole, data.max_rows), columns_of(pairs, data)
    rows = Rows(table, names, used, name, part, len(whole), known, stamp, pairs.notes, conditions, weights)
    return of_kind(rows, data, told=bool(kinds))


def pairs_of(data: Data, split: str, text: Text) -> Pairs:
    """The pairs of a split, with the columns of masks and captions that a recipe names. Raises DataError as `open_rows` does."""
    pairs = _of_split(_open(data, text), split, data.path)
    if not pairs.captioned:
        raise DataError(f"{data.path} has no captions in {data.caption_column!r}; name them with data.caption_column")
    return with_captions(_masked(_with_conditions(pairs, data), data), text.columns, data.path)


def columns_of(pairs: Pairs, data: Data) -> tuple[str, ...]:
    """Of the conditions, by the dataset's names."""
    return (
        (pairs.columns.condition, *pairs.further_conditions)
        if isinstance(pairs, TablePairs)
        else data.condition_columns
    )


def said_kinds(pairs: Pairs, data: Data, text: Text) -> tuple[str | None, ...]:
    """The kind of each condition, as the dataset says it. Raises DataError as `open_rows` does for columns that it has not."""
    each = [data.model_copy(update={"conditions": (one,)}) for one in data.conditions]
    return tuple(_open(one, text).said for one in each) or (pairs.said,)


def spread(numbers: Sequence[int], most: int) -> Sequence[int]:
    """At most that many, evenly chosen; 0: all."""
    if not most or len(numbers) <= most:
        return numbers
    return [numbers[n * len(numbers) // most] for n in range(most)]


def stamp_of(pairs: Pairs, data: Data, text: Text) -> str:
    """Of the files and the columns: what is known of one column's maps must never be taken for another's."""
    named = [data.image_column, data.condition_column, data.caption_column]
    columns = pairs.columns.names if isinstance(pairs, TablePairs) else named
    masks = [["masks", data.mask_column]] if data.mask_column else []
    captions = [["captions", *text.columns]] if text.columns else []
    conditions = [["conditions", *data.conditions]] if data.conditions else []
    return sha256(json.dumps([pairs.stamp, *columns, *masks, *captions, *conditions]).encode()).hexdigest()


def _with_conditions(pairs: Pairs, data: Data) -> Pairs:
    """With the columns that `data.conditions` names, of which the pairs have the first. Raises DataError where there is no table."""
    if not data.conditions:
        return pairs
    if not isinstance(pairs, TablePairs):
        raise DataError(f"data.conditions names columns, but {data.path} has none: it is no table")
    return replace(pairs, further_conditions=data.conditions[1:])


def _masked(pairs: Pairs, data: Data) -> Pairs:
    """With the column of masks that the recipe names. Raises DataError where there is none."""
    if not data.mask_column:
        return pairs
    if not isinstance(pairs, TablePairs):
        raise DataError(
            f"data.mask_column = {data.mask_column!r}, but {data.path} has no further columns: it is no table"
        )
    pictures = [column.name for column in schema(pairs.files[0].path) if is_picture(column.type)]
    if data.mask_column not in pictures:
        raise DataError(
            f"data.mask_column = {data.mask_column!r}, but the columns of pictures of {data.path} are {', '.join(pictures)}"
        )
    return replace(pairs, further=data.mask_column)


def refuse_changed(rows: Rows, data: Data, text: Text) -> None:
    """Raises DataError where the files of rows are no longer those that were opened."""
    if stamp_of(_of_split(_open(data, text), rows.split, data.path), data, text) != rows.stamp:
        raise DataError(f"{data.path} has changed since it was opened: what was made of it is discarded; start again")


def splits(data: Data, text: Text = PLAIN) -> list[str]:
    """The splits that a dataset has. Raises DataError where there is no dataset."""
    return _splits(_open(data, text))


def _splits(pairs: Pairs) -> list[str]:
    return sorted({file.split for file in pairs.files}) if isinstance(pairs, TablePairs) else ["train"]


def _open(data: Data, text: Text) -> Pairs:
    """Columns that the recipe leaves at their defaults may have other names: then they are guessed, and a note says so."""
    roles = {f"{role}_column": getattr(data, f"{role}_column") for role in ("image", "condition", "caption")}
    named = {role: name for role, name in roles.items() if name != Data.model_fields[role].default}
    named |= {"caption_column": text.columns[0]} if text.columns else {}
    named |= {"condition_column": data.conditions[0]} if data.conditions else {}
    try:
        return open_pairs(data.path, **named)
    except UsageError as error:
        said = str(error).replace("--caption-column", "text.captions") if text.columns else str(error)
        said = said.replace("--condition-column", "data.conditions:") if data.conditions else said
        raise DataError(f"data.path = {data.path!r}: {_in_recipe_words(said)}") from None


def _in_recipe_words(error: str) -> str:
    return re.sub(r"--(\w+)-column", r"data.\1_column", error)


def _of_split(pairs: Pairs, split: str, path: str) -> Pairs:
    """Raises DataError that lists the splits there are."""
    known = _splits(pairs)
    if split not in known:
        raise DataError(f"{path} has no split {split!r}; there is {', '.join(known)}")
    if isinstance(pairs, TablePairs):
        return replace(pairs, files=[file for file in pairs.files if file.split == split])
    return pairs


def of_kind(rows: Rows, data: Data, told: bool = False) -> Rows:
    """With the kind that the recipe names, or else the dataset, or else most maps look like.

    told: what the dataset does not say is known already. Raises DataError where recipe and dataset name different ones; a note
    says where the pixels do.
    """
    if data.conditions:
        return _of_kinds(rows, data)
    wanted, accepted = data.kind, ACCEPTED.get(data.kind, set())
    if rows.kind and wanted not in ("auto", rows.kind) and rows.kind not in accepted:
        raise DataError(f'data.kind = "{wanted}", but the conditions of {data.path} are of kind "{rows.kind}"')
    if rows.kind or told:
        return rows
    seen = _looks_like(rows)
    if wanted == "auto":
        return replace(rows, kinds=(seen,))
    doubt = f'data.kind = "{wanted}", but most conditions of split {rows.split!r} look like {seen}'
    return replace(rows, kinds=(wanted,), notes=[*rows.notes, *([doubt] if seen and seen not in accepted else [])])


def _of_kinds(rows: Rows, data: Data) -> Rows:
    """Of several conditions each one's, which must be clear, and its own. Raises DataError where one is not."""
    found = dict[str, str]()
    for number, (column, said) in enumerate(zip(rows.conditions, rows.kinds)):
        kind, where = said or _looks_like(rows.alone(number)), f"data.conditions: column {column!r} of {data.path}"
        if kind is None:
            raise DataError(f"{where} has maps of a kind that is not clear: leave it out")
        if kind in found:
            raise DataError(f"{where} has maps of kind {kind}, as {found[kind]!r} has: leave one of the two out")
        found[kind] = column
    return replace(rows, kinds=tuple(found))


def _looks_like(rows: Rows) -> str | None:
    """The kind that most of a few maps have, by their pixels."""
    found: Counter[str | None] = Counter()
    for number in range(0, len(rows), max(1, len(rows) // LOOKED_AT)):
        try:
            found[classify(measure_features(decode(rows[number].conditions[0]).rgb))] += 1
        except (Rejected, TypeError):  # the check of the rows says what is wrong with it
            continue
    kind = found.most_common(1)[0][0] if found else None
    return kind if kind in CONDITION_KINDS else None
