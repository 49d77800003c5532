"""A finished dataset as a source: its rows are read again, and keep the columns that they have."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from hashlib import sha256
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import pyarrow as pa

from condprep.building.options import BuildOptions
from condprep.dataset.arrow import IMAGE, row_of
from condprep.dataset.columns import check_named, check_own
from condprep.dataset.layout import Layout
from condprep.dataset.reader import batches, schema
from condprep.dataset.records import primary_column, provenance, read_record, read_rejects
from condprep.dataset.remote import content, watch
from condprep.dataset.shards import Counts
from condprep.errors import Rejected, UsageError
from condprep.runtime.arrow_messages import check_arrow
from condprep.runtime.parquet_pages import read_rows
from condprep.sources.base import stamp, unsaid
from condprep.types import Entry, Note, Sample


class ExistingRows:
    """The rows of a dataset as a source: `read` gives the stored picture together with the columns that are kept."""

    kind = "condprep"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.provenance = read_record(layout.private / "provenance.json", provenance)
        self.files = Counts.load(layout.done).files
        self.starts = list(accumulate((file["rows"] for file in self.files), initial=0))  # of each file's rows
        made = [annotator["column"] for annotator in self.provenance["annotators"]]
        self.only_map = made[0] if len(made) == 1 else None  # then it has no column of its own yet
        self._table = lru_cache(maxsize=2)(_table)

    def __reduce__(self) -> Any:
        return _of_layout, (self.layout,)  # another process opens the files by itself

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "plan": sha256((self.layout.private / "plan.json").read_bytes()).hexdigest()}

    @cached_property
    def _requested(self) -> dict[str, Any]:
        """Of the build that made this dataset, or else that added the newest columns to it."""
        return read_record(self.layout.private / "plan.json", _requested)

    def newest_are(self, options: BuildOptions) -> bool:
        """Whether the newest columns are what is asked for: then a run ended just before it could say so, or is repeated."""
        before, now = (
            {**kept, "beside": None} for kept in (self._requested["options"], options.model_dump(mode="json"))
        )
        return self._requested["source"].get("kind") == self.kind and before == now

    @property
    def inherited(self) -> dict[str, Any]:
        """The options of the build that adds to this dataset."""
        options = self._requested["options"]
        kept = ("captions", "format", "validation", "shard_rows", "shard_bytes", "max_pixels")
        by = {"validation_by": options.get("validation_by")}
        return {name: options[name] for name in kept} | by | {"fit": "keep", "beside": tuple(self.columns)}

    @property
    def columns(self) -> dict[str, pa.DataType]:
        kinds = {field.name: field.type for field in schema(self.layout.root / self.files[0]["name"])}
        if not self.only_map:
            return kinds
        ordered: dict[str, pa.DataType] = {}
        for name, kind in kinds.items():
            ordered |= {name: kind} | ({self.only_map: IMAGE} if name == "conditioning_image" else {})
        return ordered

    @property
    def rejects(self) -> bytes:
        return read_rejects(self.layout.private)

    def check(self, columns: Iterable[str]) -> None:
        """Raises UsageError where the columns cannot be added, DatasetError where the rows are not condprep's."""
        for file in self.files:
            path = self.layout.root / file["name"]
            check_own(str(path), schema(path))
        if self.provenance["geometry"]["fit"] == "pad":
            raise UsageError(
                f"{self.layout.root} was built with --fit pad, and its black borders would be annotated; "
                "build it anew with all annotators"
            )
        if taken := set(columns) & set(self.columns):
            raise UsageError(f"{self.layout.root} has a column {sorted(taken)[0]!r} already")

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        numbers = count()
        for file in self.files:
            path = self.layout.root / file["name"]
            state = stamp(path)
            for batch in batches(path, ["key", "source"]):
                for key, source in zip(batch["key"].to_pylist(), batch["source"].to_pylist()):
                    check_named(str(path), key, source)
                    yield Entry(source, state, offset=next(numbers))

    def read(self, entry: Entry) -> Sample:
        number = bisect_right(self.starts, entry.offset) - 1
        table = self._table(self.layout.root / self.files[number]["name"])
        columns = row_of(table, entry.offset - self.starts[number])
        if self.only_map:
            columns[self.only_map] = columns["conditioning_image"]
        text = columns["text"] if isinstance(columns["text"], list) else [columns["text"]]
        picture = (columns["image"] or {}).get("bytes")
        if picture is None:
            raise Rejected("read", "there is no picture in 'image'", code="no-picture")
        return Sample(columns["source"], picture, tuple(text), columns, split=self.files[number]["split"])

    def merge(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """The dataset's provenance with that of the added columns."""
        before, added = self.provenance, provenance
        counts = before["counts"] | {name: added["counts"][name] for name in ("rows", "bytes")}
        counts["without_map"] = Counter(before["counts"]["without_map"]) + Counter(added["counts"]["without_map"])
        counts["rejects"] = Counter(before["counts"]["rejects"]) + Counter(added["counts"]["rejects"])
        primary = primary_column(before, self._requested["options"])
        return {
            **before,
            **({"primary": primary} if primary else {}),
            "annotators": [*before["annotators"], *added["annotators"]],
            "counts": counts,
        }


def _of_layout(layout: Layout) -> ExistingRows:
    if layout.target:
        watch(layout.root, str(layout.target.remote), layout.target.remote)
    return ExistingRows(layout)


def _requested(plan: Any) -> dict[str, Any]:
    requested = dict(plan["config"]["requested"])
    return requested | {"options": dict(requested["options"]), "source": dict(requested["source"])}


def _table(path: Path) -> pa.Table:
    """A data file; Arrow is mapped, not read: of one at a URL it is a copy, which stays whole where it is taken away meanwhile."""
    with content(path) as held:
        if path.suffix == ".parquet":
            return read_rows(held)
        check_arrow(held)
        return pa.ipc.open_stream(pa.memory_map(str(held))).read_all()
