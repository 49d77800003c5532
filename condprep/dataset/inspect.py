"""What is in a dataset: rows, sizes, captions, people, provenance, rejects; of any Hugging Face dataset what it tells.

One pass over the small columns: pictures are never read, and memory does not grow with the number of rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from condprep.dataset.reader import Shard, batches, first_schema, is_image, schema, shards
from condprep.dataset.records import read_record
from condprep.dataset.remote import here, shown
from condprep.errors import DatasetError
from condprep.sources.text import MAX_CAPTION

MAX_LINE = 1 << 20  # characters of a reject


@dataclass(frozen=True)
class Captions:
    """How the rows are captioned. Words are counted between white space, over all captions that are not blank."""

    missing: int  # rows without one
    several: int  # rows with more than one
    words: tuple[int, int, int]  # the shortest, the median and the longest caption


@dataclass(frozen=True)
class DatasetSummary:
    """What `condprep inspect` shows. None: the dataset does not tell."""

    path: str
    rows: dict[str, int]  # split -> rows
    bytes: dict[str, int]  # split -> size of its files on disk
    files: int
    columns: dict[str, str]  # name -> kind, in order
    sizes: dict[str, int] | None  # "width x height" -> rows, most frequent first
    captions: Captions | None
    enlarged: int | None  # rows whose picture was enlarged
    people: dict[str, dict[int, int]]  # keypoints column -> people in the picture -> rows
    provenance: dict[str, Any] | None  # as the build recorded it
    rejects: dict[str, int] | None  # code -> inputs, most frequent first
    problems: list[str] = field(default_factory=list)  # damaged files; what could be read of them is counted

    def to_json(self) -> str:
        """Everything, as indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def summarize(path: str | Path) -> DatasetSummary:
    """Look through the dataset at `path`, a folder or a URL. A damaged file is named among the problems, and the others are counted.

    Raises DatasetError where there is no dataset or no file of it can be read.
    """
    root = here(path)
    files, tally, problems = shards(root), Tally(), []
    columns = first_schema(files)
    for file in files:
        try:
            tally.add_file(file)
        except DatasetError as error:
            problems.append(str(error))
    sizes: Counter[str] = Counter()
    for file in files:
        sizes[file.split] += file.path.stat().st_size
    return DatasetSummary(
        path=shown(root),
        rows=dict(tally.rows),
        bytes=dict(sizes),
        files=len(files),
        columns={column.name: _kind(column.type) for column in columns},
        sizes=tally.size_counts(),
        captions=tally.captions(),
        enlarged=tally.enlarged,
        people={name: dict(sorted(counts.items())) for name, counts in tally.people.items()},
        provenance=_provenance(root, problems),
        rejects=_rejects(root / ".condprep" / "rejects.jsonl"),
        problems=problems,
    )


class Tally:
    """Counts that grow batch by batch."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.sizes: Counter[int] = Counter()  # width << 32 | height
        self.words: Counter[int] = Counter()
        self.missing: int | None = None
        self.several = 0
        self.enlarged: int | None = None
        self.people: dict[str, Counter[int]] = {}

    def add_file(self, file: Shard) -> None:
        """Count one file's rows. Raises DatasetError where it is damaged; what came before is counted."""
        known = schema(file.path)
        wanted = [column.name for column in known if _counted(column)]
        self.rows[file.split] += 0
        for batch in batches(file.path, wanted or known.names[:1]):
            self.rows[file.split] += len(batch)
            self._add({name: batch.column(name) for name in wanted})

    def _add(self, columns: dict[str, pa.Array]) -> None:
        if "text" in columns:
            self._add_captions(columns["text"])
        if "width" in columns and "height" in columns:
            width, height = (columns[name].fill_null(0).to_numpy().astype(np.int64) for name in ("width", "height"))
            _count(self.sizes, width << 32 | height)
        if "transform" in columns:
            self._add_transforms(columns["transform"])
        for name in columns:
            if name.startswith("keypoints"):
                people = pc.list_value_length(
                    pc.struct_field(columns[name], "people")
                ).drop_null()  # of rows that lack them
                _count(self.people.setdefault(name, Counter()), people.to_numpy(zero_copy_only=False))

    def _add_captions(self, column: pa.Array) -> None:
        many = not _is_text(column.type)
        rows = pc.list_parent_indices(column).to_numpy() if many else np.arange(len(column))
        words = _words(column.flatten() if many else column)
        captions = np.bincount(rows[words > 0], minlength=len(column))  # not blank, by row
        _count(self.words, words[words > 0])
        self.missing = (self.missing or 0) + int((captions == 0).sum())
        self.several += int((captions > 1).sum())

    def _add_transforms(self, column: pa.Array) -> None:
        whole = column.filter(pc.equal(pc.list_value_length(column), 6))
        matrices = whole.flatten().to_numpy(zero_copy_only=False).reshape(-1, 6)  # sx, 0, tx, 0, sy, ty
        self.enlarged = (self.enlarged or 0) + int((matrices[:, [0, 4]] > 1).any(axis=1).sum())

    def size_counts(self) -> dict[str, int] | None:
        """ "width x height" -> rows."""
        return {f"{size >> 32} x {size & 0xFFFFFFFF}": rows for size, rows in self.sizes.most_common()} or None

    def captions(self) -> Captions | None:
        if self.missing is None:
            return None
        lengths = sorted(self.words.items())
        middle = np.searchsorted(np.cumsum([rows for _, rows in lengths]), self.words.total() / 2)
        words = (lengths[0][0], lengths[middle][0], lengths[-1][0]) if lengths else (0, 0, 0)
        return Captions(self.missing, self.several, words)


def _words(captions: pa.Array) -> np.ndarray:
    """Strings, some null -> the number of words of each, as far as captions are read."""
    trimmed = pc.utf8_trim_whitespace(pc.utf8_slice_codeunits(captions.fill_null(""), 0, MAX_CAPTION))
    words = pc.list_value_length(pc.utf8_split_whitespace(trimmed)).to_numpy(zero_copy_only=False)
    return np.where(pc.equal(trimmed, "").to_numpy(zero_copy_only=False), 0, words)


def _count(counter: Counter[int], values: np.ndarray) -> None:
    for value, rows in zip(*np.unique(values, return_counts=True)):
        counter[int(value)] += int(rows)


def _counted(column: pa.Field) -> bool:
    """Whether a column is looked into: it has the name and the type of one that a build writes."""
    kind = column.type
    match column.name:
        case "text":
            return _is_text(kind) or (_is_list(kind) and _is_text(kind.value_type))
        case "width" | "height":
            return bool(pa.types.is_integer(kind))
        case "transform":
            return _is_list(kind) and bool(pa.types.is_floating(kind.value_type))
    people = kind.get_field_index("people") if pa.types.is_struct(kind) else -1
    return column.name.startswith("keypoints") and people >= 0 and _is_list(kind.field(people).type)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _kind(kind: pa.DataType) -> str:
    """The type in few words, the same for Arrow and Parquet files."""
    if is_image(kind):
        return "image"
    if _is_list(kind):
        return f"list<{_kind(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"{{{', '.join(field.name for field in kind)}}}"
    return str(kind)


def _provenance(root: Path, problems: list[str]) -> dict[str, Any] | None:
    path = root / ".condprep" / "provenance.json"
    if not path.exists():
        return None
    try:
        return read_record(path, dict)
    except DatasetError as error:
        problems.append(str(error))
        return None


def _rejects(path: Path) -> dict[str, int] | None:
    """Rejects by code."""
    if not path.is_file():
        return None
    counts: Counter[str] = Counter()
    for line in reject_lines(path):
        counts[reject_code(line)] += 1
    return dict(counts.most_common())


def reject_lines(path: Path) -> Iterator[str]:
    """The lines of a rejects.jsonl, up to one that is none of ours: longer than any reason."""
    with path.open(encoding="utf-8", errors="replace") as file:
        while line := file.readline(MAX_LINE):
            yield line
            if len(line) == MAX_LINE:
                return


def reject_code(line: str | bytes) -> str:
    """A line of rejects.jsonl -> the code that it is counted with."""
    try:
        return str(json.loads(line)["code"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "a damaged line of rejects.jsonl"
