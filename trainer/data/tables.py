"""Rows as a table that is read by number: Arrow files where they lie, and of everything else a copy.

Arrow files are mapped into memory. What cannot be read by number (Parquet, folders, listings, pictures stored as paths) is
copied into one Arrow file in the cache's folder first.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from condprep.dataset.pairs.open import Pair, Pairs
from condprep.dataset.pairs.table import SOURCE, TRANSFORM, TablePairs
from condprep.dataset.reader import Shard, is_image, schema
from condprep.dataset.remote import content
from condprep.errors import DatasetError
from condprep.runtime.arrow_messages import is_compressed
from condprep.runtime.files import commit
from condprep.runtime.local_copies import copy_of, let_go
from condprep.runtime.own import make_folder
from trainer.errors import DataError

COPIED = pa.schema(
    {"image": pa.binary(), "condition": pa.binary(), "text": pa.list_(pa.list_(pa.string())), "key": pa.string()}
    | {TRANSFORM: pa.list_(pa.float64()), "mask": pa.binary(), SOURCE: pa.string()}
)
COPY = 3  # the version of what is copied
END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream
COPIED_AT_ONCE = 64  # rows of a copy in memory
MOST_SHOWN = 3  # wrong rows in a message


@dataclass(frozen=True)
class Names:
    """Which column holds what."""

    image: str
    condition: str
    captions: tuple[str, ...]
    key: str | None
    keypoints: str | None = None
    transform: str | None = None
    mask: str | None = None
    source: str | None = None  # which file a picture comes from
    copied: bool = False  # into one column of captions, a list for each column that they come from
    further_conditions: tuple[str, ...] = ()  # where one ControlNet learns several kinds

    @property
    def conditions(self) -> tuple[str, ...]:
        return (self.condition, *self.further_conditions)

    @property
    def pictures(self) -> list[str]:
        return [name for name in (self.image, *self.conditions, self.mask) if name]

    @property
    def columns(self) -> list[str]:
        named = (*self.pictures, *self.captions, self.key, self.keypoints, self.transform, self.source)
        return list(dict.fromkeys(filter(None, named)))


def open_table(pairs: Pairs, copies: Path, stamp: str, path: str) -> tuple[pa.Table, Names]:
    """The rows of pairs that have captions. copies: folder for what cannot be read by number; path: for messages.

    Raises DataError for a damaged file, and that lists rows which cannot be read.
    """
    return _mapped(pairs) or _copied(pairs, copies, stamp, path)


def open_shard(pairs: TablePairs, stamp: str, path: str) -> tuple[pa.Table, Names]:
    """The rows of one file alone. A copy lies among those of objects, in the folder with a limit, and may go once it is mapped.

    Raises DataError as `open_table` does, FileNotFoundError where the file is gone.
    """
    file = pairs.files[0].path
    with content(file) as held:
        if found := _mapped(pairs):
            return found
        size = held.stat().st_size
        copy = copy_of(f"rows {stamp} {COPY}", "rows.arrow", size, lambda sink: _copy(pairs, sink, path))
        try:
            return _map(copy, copied(pairs).names), _names_of_copy(pairs)
        finally:
            let_go(copy)


def _mapped(pairs: Pairs) -> tuple[pa.Table, Names] | None:
    """The table where it lies, or None where it cannot be read by number. Raises DataError for a damaged file."""
    if not (isinstance(pairs, TablePairs) and all(file.path.suffix == ".arrow" for file in pairs.files)):
        return None
    chosen = pairs.columns
    assert chosen.caption  # the caller has checked it
    try:
        known = schema(pairs.files[0].path)
        written = pairs.made.column if pairs.made else chosen.condition
        keypoints = _keypoints_column(known, (written, *pairs.further_conditions))
        transform, source = (name if name in known.names else None for name in (TRANSFORM, SOURCE))
        source = source if source and pa.types.is_string(known.field(source).type) else None
        captions = (chosen.caption, *pairs.further_captions)
        names = Names(chosen.image, chosen.condition, captions, chosen.key, keypoints, transform, pairs.further, source)
        names = replace(names, further_conditions=tuple(pairs.further_conditions))
        if any(map(_is_compressed, pairs.files)):
            return None
        table = pa.concat_tables([_map(file.path, names.columns) for file in pairs.files])
    except (pa.ArrowException, OSError, ValueError, DatasetError) as error:
        raise DataError(f"a file of split {pairs.files[0].split!r} is damaged: {error}") from None
    return (table, names) if all(_embedded(table.column(c)) for c in names.pictures) else None


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


def _keypoints_column(columns: pa.Schema, conditions: Sequence[str]) -> str | None:
    """`keypoints`, or `keypoints_blaze` of the map `openpose_blaze`; None where there is no such column, or it is not clear which.

    conditions: the columns into which the maps were written.
    """
    names = [name for name in columns.names if name == "keypoints" or name.startswith("keypoints_")]
    named = [name for name in names if any(one.endswith(name.removeprefix("keypoints")) for one in conditions)]
    chosen = max(named if len(names) > 1 else names, key=len, default=None)
    kind = chosen and columns.field(chosen).type
    return chosen if kind and pa.types.is_struct(kind) and kind.get_field_index("people") >= 0 else None


def _copied(pairs: Pairs, folder: Path, stamp: str, path: str) -> tuple[pa.Table, Names]:
    """A copy that can be read by number, made once. Raises DataError that lists rows which cannot be read."""
    copy = folder / f"rows-{stamp[:16]}-v{COPY}.arrow"
    if not _is_whole(copy, copied(pairs)):
        make_folder(folder)
        try:
            commit(copy, lambda partial: _copy(pairs, str(partial), path))
        except DataError:
            with suppress(OSError):  # not empty
                folder.rmdir()
            raise
    return _map(copy, copied(pairs).names), _names_of_copy(pairs)


def _further(pairs: Pairs) -> list[str]:
    """What a copy calls the columns of further conditions."""
    return (
        [f"condition_{n}" for n, _ in enumerate(pairs.further_conditions, 1)] if isinstance(pairs, TablePairs) else []
    )


def copied(pairs: Pairs) -> pa.Schema:
    """The columns of a copy."""
    return pa.schema([*COPIED, *(pa.field(name, pa.binary()) for name in _further(pairs))])


def _names_of_copy(pairs: Pairs) -> Names:
    masks, further = "mask" if isinstance(pairs, TablePairs) and pairs.further else None, tuple(_further(pairs))
    return Names("image", "condition", ("text",), "key", None, TRANSFORM, masks, SOURCE, True, further)


def _is_whole(copy: Path, columns: pa.Schema) -> bool:
    """Whether a copy is as it was written: it ends as a stream does, and all of it can be read."""
    try:
        with copy.open("rb") as file:
            file.seek(-len(END), os.SEEK_END)
            return file.read() == END and _map(copy, columns.names).schema.equals(columns)
    except (pa.ArrowException, OSError, ValueError, DatasetError):
        return False


def _copy(pairs: Pairs, target: str | IO[bytes], path: str) -> None:
    waiting, columns = iter(pairs), copied(pairs)
    with pa.ipc.new_stream(target, columns) as sink:
        while some := list(islice(waiting, COPIED_AT_ONCE)):
            refuse(path, [(pair.key, pair.problem) for pair in some if pair.problem])
            sink.write_batch(pa.RecordBatch.from_pylist([_copied_row(pair, path) for pair in some], columns))


def _copied_row(pair: Pair, path: str) -> dict[str, Any]:
    columns = [pair.caption, *pair.further_captions]
    texts = [column if isinstance(column, list) else [column] for column in columns]
    if len(columns) > 1:  # of which one may be empty
        texts = [[caption for caption in captions if caption is not None] for captions in texts]
    if wrong := [caption for captions in texts for caption in captions if not isinstance(caption, str)]:
        refuse(path, [(pair.key, f"the caption is no text but {wrong[0]!r:.100}")])
    known = {"text": texts, "key": pair.key, TRANSFORM: pair.transform, "mask": pair.further, SOURCE: pair.source}
    further = {f"condition_{n}": one for n, one in enumerate(pair.further_conditions, 1)}
    return {"image": pair.image, "condition": pair.condition} | known | further


def refuse(path: str, wrong: Sequence[tuple[str, str]]) -> None:
    """Raises DataError that shows the first of the (key, reason), if there are any."""
    if wrong:
        shown = "; ".join(f"{key}: {reason}" for key, reason in wrong[:MOST_SHOWN])
        more = f" and {len(wrong) - MOST_SHOWN:,} more" if len(wrong) > MOST_SHOWN else ""
        raise DataError(
            f"{path} cannot be trained on: {shown}{more}; `condprep verify {shlex.quote(str(path))}` shows them all"
        )
