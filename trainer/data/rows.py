"""The rows of a dataset, by number: encoded pictures and maps, captions, keypoints.

Arrow files are mapped into memory where they lie. What cannot be read by number (Parquet, folders, listings, pictures
stored as paths) is copied into one Arrow file in the cache's folder first.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from condprep.dataset.pairs.base import read_transform
from condprep.dataset.pairs.open import Pair, Pairs, open_pairs
from condprep.dataset.pairs.table import TRANSFORM, TablePairs, is_picture
from condprep.dataset.reader import Shard, is_image, schema
from condprep.dataset.remote import content
from condprep.errors import DatasetError, Rejected, SourceError
from condprep.images.decode import decode
from condprep.runtime.arrow_messages import is_compressed
from condprep.runtime.files import commit
from condprep.types import CONDITION_KINDS
from condprep.verification.features import ACCEPTED, classify, measure_features
from trainer.errors import DataError
from trainer.recipe.recipe import Data

COPIED = pa.schema(
    {"image": pa.binary(), "condition": pa.binary(), "text": pa.list_(pa.string()), "key": pa.string()}
    | {TRANSFORM: pa.list_(pa.float64()), "mask": pa.binary()}
)
COPY = 2  # the version of what is copied
END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream
COPIED_AT_ONCE = 64  # rows of a copy in memory
LOOKED_AT = 16  # maps that tell the kind of a dataset which does not say it
MOST_SHOWN = 3  # wrong rows in a message


@dataclass(frozen=True, slots=True)
class Row:
    """One pair, encoded as it is stored."""

    key: str
    image: bytes
    condition: bytes
    captions: tuple[str, ...]  # at least one
    keypoints: Mapping[str, Any] | None = None  # of poses, in OpenPose's layout
    mask: bytes | None = None  # what counts of it, where the recipe names a column of masks


@dataclass(frozen=True)
class Names:
    """Which column holds what."""

    image: str
    condition: str
    caption: str
    key: str | None
    keypoints: str | None = None
    transform: str | None = None
    mask: str | None = None

    @property
    def columns(self) -> list[str]:
        named = (self.image, self.condition, self.caption, self.key, self.keypoints, self.transform, self.mask)
        return list(dict.fromkeys(filter(None, named)))


@dataclass(frozen=True)
class Rows:
    """The rows of one split; `rows[3]` reads one. Many threads may read."""

    table: pa.Table
    names: Names
    numbers: Sequence[int]  # those that are used, of the table
    split: str
    kind: str | None  # of the conditions, one of condprep.types.CONDITION_KINDS; None: it is not clear
    stamp: str  # of the files and of what is read from them; changes when one of the two does
    notes: Sequence[str]  # what was guessed
    column: str  # of the conditions, as the dataset calls it: a copy has other names

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Row:
        image, condition = (_bytes(self._value(name, number)) for name in (self.names.image, self.names.condition))
        keypoints, mask = self._value(self.names.keypoints, number), self.names.mask and self.mask(number)
        return Row(self.key(number), image, condition, self.captions(number), keypoints, mask or None)

    def mask(self, number: int) -> bytes:
        """What counts of a row, an encoded picture; b"" where the row has none."""
        return _bytes(self._value(self.names.mask, number) or b"")

    def key(self, number: int) -> str:
        """What the dataset calls a row."""
        key = self._value(self.names.key, number)
        return f"{self.split}:{self.numbers[number]}" if key is None else str(key)

    def captions(self, number: int) -> tuple[str, ...]:
        captions = self._value(self.names.caption, number)
        return tuple(captions) or ("",) if isinstance(captions, list) else (captions,)

    def transform(self, number: int) -> list[float] | None:
        """[sx, 0, tx, 0, sy, ty]: the way from the source's pixels to the stored ones, where the dataset says it."""
        return read_transform(self._value(self.names.transform, number))

    def _value(self, column: str | None, number: int) -> Any:
        return column and self.table.column(column)[self.numbers[number]].as_py()


def _bytes(value: Any) -> bytes:
    return bytes(value["bytes"] if isinstance(value, dict) else value)


def open_rows(data: Data, split: str, copies: Path) -> Rows:
    """The rows of a split. copies: folder for what cannot be read by number.

    Raises DataError in the recipe's words: no such dataset, split or column, other conditions than `data.kind`.
    """
    pairs = _of_split(_open(data), split, data.path)
    if not pairs.captioned:
        raise DataError(f"{data.path} has no captions in {data.caption_column!r}; name them with data.caption_column")
    stamp = _stamp(pairs, data)
    pairs = _masked(pairs, data)
    table, names = _mapped(pairs) or _copied(pairs, copies, stamp, data.path)
    numbers = range(table.num_rows)
    if data.max_rows and len(numbers) > data.max_rows:
        numbers = [n * len(numbers) // data.max_rows for n in range(data.max_rows)]  # type: ignore[assignment]
    column = pairs.columns.condition if isinstance(pairs, TablePairs) else data.condition_column
    rows = Rows(table, names, numbers, split, pairs.said, stamp, pairs.notes, column)
    return _of_kind(rows, data)


def _stamp(pairs: Pairs, data: Data) -> str:
    """Of the files and the columns: what is known of one column's maps must never be taken for another's."""
    named = [data.image_column, data.condition_column, data.caption_column]
    columns = pairs.columns.names if isinstance(pairs, TablePairs) else named
    masks = [["masks", data.mask_column]] if data.mask_column else []
    return sha256(json.dumps([pairs.stamp, *columns, *masks]).encode()).hexdigest()


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


def refuse_changed(rows: Rows, data: Data) -> None:
    """Raises DataError where the files of rows are no longer those that were opened."""
    if _stamp(_of_split(_open(data), rows.split, data.path), data) != rows.stamp:
        raise DataError(f"{data.path} has changed since it was opened: what was made of it is discarded; start again")


def splits(data: Data) -> list[str]:
    """The splits that a dataset has. Raises DataError where there is no dataset."""
    pairs = _open(data)
    return sorted({file.split for file in pairs.files}) if isinstance(pairs, TablePairs) else ["train"]


def _open(data: Data) -> Pairs:
    """Columns that the recipe leaves at their defaults may have other names: then they are guessed, and a note says so."""
    roles = {f"{role}_column": getattr(data, f"{role}_column") for role in ("image", "condition", "caption")}
    named = {role: name for role, name in roles.items() if name != Data.model_fields[role].default}
    try:
        return open_pairs(data.path, **named)
    except (SourceError, DatasetError) as error:
        raise DataError(f"data.path = {data.path!r}: {_in_recipe_words(error)}") from None


def _in_recipe_words(error: Exception) -> str:
    return re.sub(r"--(\w+)-column", r"data.\1_column", str(error))


def _of_split(pairs: Pairs, split: str, path: str) -> Pairs:
    """Raises DataError that lists the splits there are."""
    known = sorted({file.split for file in pairs.files}) if isinstance(pairs, TablePairs) else ["train"]
    if split not in known:
        raise DataError(f"{path} has no split {split!r}; there is {', '.join(known)}")
    if isinstance(pairs, TablePairs):
        return replace(pairs, files=[file for file in pairs.files if file.split == split])
    return pairs


def _mapped(pairs: Pairs) -> tuple[pa.Table, Names] | None:
    """The table where it lies, or None where it cannot be read by number. Raises DataError for a damaged file."""
    if not (isinstance(pairs, TablePairs) and all(file.path.suffix == ".arrow" for file in pairs.files)):
        return None
    chosen = pairs.columns
    assert chosen.caption  # open_rows has checked it
    try:
        known = schema(pairs.files[0].path)
        keypoints = _keypoints_column(known, chosen.condition, pairs.made)
        transform = TRANSFORM if TRANSFORM in known.names else None
        names = Names(chosen.image, chosen.condition, chosen.caption, chosen.key, keypoints, transform, pairs.further)
        if any(map(_is_compressed, pairs.files)):
            return None
        table = pa.concat_tables([_map(file.path, names.columns) for file in pairs.files])
    except (pa.ArrowException, OSError, ValueError, DatasetError) as error:
        raise DataError(f"a file of split {pairs.files[0].split!r} is damaged: {error}") from None
    pictures = filter(None, (names.image, names.condition, names.mask))
    return (table, names) if all(_embedded(table.column(c)) for c in pictures) else None


def _map(path: Path, columns: Sequence[str]) -> pa.Table:
    """Those columns of an Arrow file, without reading a picture. Raises ArrowException where it is not sound."""
    known = schema(path).names
    options = pa.ipc.IpcReadOptions(included_fields=[known.index(column) for column in columns])
    with (
        content(path) as held,
        pa.memory_map(str(held)) as source,
        pa.ipc.open_stream(source, options=options) as reader,
    ):
        table = reader.read_all()
    table.validate(full=True)
    return table


def _is_compressed(file: Shard) -> bool:
    with content(file.path) as held:
        return is_compressed(held)


def _embedded(column: pa.ChunkedArray) -> bool:
    """Whether every picture of a column is in it, and none a path."""
    return not (pc.struct_field(column, "bytes") if is_image(column.type) else column).null_count


def _keypoints_column(columns: pa.Schema, condition: str, made: Any) -> str | None:
    """`keypoints`, or `keypoints_blaze` of the map `openpose_blaze`; None where there is no such column."""
    names = [name for name in columns.names if name == "keypoints" or name.startswith("keypoints_")]
    named = [name for name in names if condition.endswith(name.removeprefix("keypoints"))]
    chosen = max(named or names, key=len, default=None) if len(names) > 1 else next(iter(names), None)
    kind = chosen and columns.field(chosen).type
    return chosen if kind and pa.types.is_struct(kind) and kind.get_field_index("people") >= 0 else None


def _copied(pairs: Pairs, folder: Path, stamp: str, path: str) -> tuple[pa.Table, Names]:
    """A copy that can be read by number, made once. Raises DataError that lists rows which cannot be read."""
    copy = folder / f"rows-{stamp[:16]}-v{COPY}.arrow"
    if not _is_whole(copy):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            commit(copy, lambda partial: _copy(pairs, partial, path))
        except DataError:
            with suppress(OSError):  # not empty
                folder.rmdir()
            raise
    masks = "mask" if isinstance(pairs, TablePairs) and pairs.further else None
    return _map(copy, COPIED.names), Names("image", "condition", "text", "key", None, TRANSFORM, masks)


def _is_whole(copy: Path) -> bool:
    """Whether a copy is as it was written: it ends as a stream does, and all of it can be read."""
    try:
        with copy.open("rb") as file:
            file.seek(-len(END), os.SEEK_END)
            return file.read() == END and _map(copy, COPIED.names).schema.equals(COPIED)
    except (pa.ArrowException, OSError, ValueError, DatasetError):
        return False


def _copy(pairs: Pairs, partial: Path, path: str) -> None:
    waiting = iter(pairs)
    with pa.ipc.new_stream(str(partial), COPIED) as sink:
        while some := list(islice(waiting, COPIED_AT_ONCE)):
            refuse(path, [(pair.key, pair.problem) for pair in some if pair.problem])
            sink.write_batch(pa.RecordBatch.from_pylist([_copied_row(pair, path) for pair in some], COPIED))


def _copied_row(pair: Pair, path: str) -> dict[str, Any]:
    captions = pair.caption if isinstance(pair.caption, list) else [pair.caption]
    if not all(isinstance(caption, str) for caption in captions):
        refuse(path, [(pair.key, f"the caption is no text but {pair.caption!r:.100}")])
    known = {"text": captions, "key": pair.key, TRANSFORM: pair.transform, "mask": pair.further}
    return {"image": pair.image, "condition": pair.condition} | known


def refuse(path: str, wrong: Sequence[tuple[str, str]]) -> None:
    """Raises DataError that shows the first of the (key, reason), if there are any."""
    if wrong:
        shown = "; ".join(f"{key}: {reason}" for key, reason in wrong[:MOST_SHOWN])
        more = f" and {len(wrong) - MOST_SHOWN:,} more" if len(wrong) > MOST_SHOWN else ""
        raise DataError(f"{path} cannot be trained on: {shown}{more}; `condprep verify {path}` shows them all")


def _of_kind(rows: Rows, data: Data) -> Rows:
    """With the kind that the recipe names, or else the dataset, or else most maps look like.

    Raises DataError where recipe and dataset name different ones; a note says where the pixels do.
    """
    wanted, accepted = data.kind, ACCEPTED.get(data.kind, set())
    if rows.kind and wanted not in ("auto", rows.kind) and rows.kind not in accepted:
        raise DataError(f'data.kind = "{wanted}", but the conditions of {data.path} are of kind "{rows.kind}"')
    if rows.kind:
        return rows
    seen = _looks_like(rows)
    if wanted == "auto":
        return replace(rows, kind=seen)
    doubt = f'data.kind = "{wanted}", but most conditions of split {rows.split!r} look like {seen}'
    return replace(rows, kind=wanted, notes=[*rows.notes, *([doubt] if seen and seen not in accepted else [])])


def _looks_like(rows: Rows) -> str | None:
    """The kind that most of a few maps have, by their pixels."""
    found: Counter[str | None] = Counter()
    for number in range(0, len(rows), max(1, len(rows) // LOOKED_AT)):
        try:
            found[classify(measure_features(decode(rows[number].condition).rgb))] += 1
        except (Rejected, TypeError):  # the check of the rows says what is wrong with it
            continue
    kind = found.most_common(1)[0][0] if found else None
    return kind if kind in CONDITION_KINDS else None
