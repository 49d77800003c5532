"""Adding annotators' columns to a dataset that is there already, and computing only those.

The dataset is built anew in `.condprep/into/` from its own rows, whose columns are kept as they are; when that build is done,
its files take the places of the old ones. Killed at any moment, the same call goes on where it was.
"""

from __future__ import annotations

import shutil
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from condprep.building.build import BuildResult, Run, build_result
from condprep.building.options import parse_options
from condprep.building.output_folder import disk_errors, locked
from condprep.building.plan import Plan
from condprep.dataset.arrow import IMAGE
from condprep.dataset.layout import Layout
from condprep.dataset.reader import batches, files, schema
from condprep.dataset.shards import Counts
from condprep.errors import DatasetError, UsageError
from condprep.runtime.concurrency import usable_cores
from condprep.runtime.files import read_json
from condprep.runtime.progress import Progress
from condprep.sources.base import stamp
from condprep.types import Entry, Sample
from condprep.weights.find import Weights


def add_columns(
    dataset: str | Path,
    annotators: str | Sequence[str],
    *,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    weights: Weights | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> BuildResult:
    """Add a column for each annotator to a dataset that condprep built; its other columns keep their bytes.

    The maps are made from the stored pictures. A picture on which an annotator fails leaves the dataset as a reject.
    The arguments are those of `build`. Raises UsageError for a folder that is no such dataset, for a column that it
    has, and for one that was built with fit "pad", whose black border would be annotated.
    """
    began = time.monotonic()
    layout = Layout(Path(dataset))
    staging = Layout(layout.private / "into")
    if not (layout.done.exists() and (layout.private / "provenance.json").exists()):
        raise UsageError(f"{dataset} is no finished dataset of condprep; --into adds to one that `condprep build` made")
    with disk_errors(layout.root), locked(layout):
        resumed = 0
        if not staging.done.exists():
            rows = Rows(layout)
            if not annotators:
                raise UsageError("--into adds the maps of an annotator; name one with --annotator")
            options = parse_options(annotators, params, precision, batch_size=batch_size, **rows.inherited)
            rows.check(options.columns().values())
            staging.private.mkdir(parents=True, exist_ok=True)
            run = Run(staging, rows, options, progress, base=rows)
            run.build(Plan.load(staging.private), device, weights or Weights(), workers or usable_cores())
            resumed = run.resumed
        counts = Counts.load(staging.done)
        plan = take_places(layout, staging, counts)
    return build_result(layout.root, plan, counts, resumed, time.monotonic() - began)


class Rows:
    """The rows of a dataset as a source: `read` gives the stored picture together with the columns that are kept."""

    kind = "condprep"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.provenance = read_json(layout.private / "provenance.json")
        self.files = read_json(layout.done)["files"]
        self.starts = list(accumulate((file["rows"] for file in self.files), initial=0))  # of each file's rows
        made = [annotator["column"] for annotator in self.provenance["annotators"]]
        self.only_map = made[0] if len(made) == 1 else None  # then it has no column of its own yet
        self._table = lru_cache(maxsize=2)(_table)

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "plan": sha256((self.layout.private / "plan.json").read_bytes()).hexdigest()}

    @property
    def inherited(self) -> dict[str, Any]:
        """The options of the build that adds to this dataset."""
        options = read_json(self.layout.private / "plan.json")["config"]["requested"]["options"]
        kept = ("captions", "format", "validation", "shard_rows", "shard_bytes", "max_pixels")
        return {name: options[name] for name in kept} | {"fit": "keep", "beside": tuple(self.columns)}

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
        return (self.layout.private / "rejects.jsonl").read_bytes()

    def check(self, columns: Iterable[str]) -> None:
        """Raises UsageError where the columns cannot be added."""
        if self.provenance["geometry"]["fit"] == "pad":
            raise UsageError(
                f"{self.layout.root} was built with --fit pad, and its black borders would be annotated; "
                "build it anew with all annotators"
            )
        if taken := set(columns) & set(self.columns):
            raise UsageError(f"{self.layout.root} has a column {sorted(taken)[0]!r} already")

    def entries(self) -> Iterator[Entry]:
        numbers = count()
        for file in self.files:
            path = self.layout.root / file["name"]
            state = stamp(path)
            for batch in batches(path, ["source"]):
                for source in batch["source"].to_pylist():
                    yield Entry(source, state, offset=next(numbers))

    def read(self, entry: Entry) -> Sample:
        number = bisect_right(self.starts, entry.offset) - 1
        table = self._table(self.layout.root / self.files[number]["name"])
        columns = table.slice(entry.offset - self.starts[number], 1).to_pylist()[0]
        if self.only_map:
            columns[self.only_map] = columns["conditioning_image"]
        text = columns["text"] if isinstance(columns["text"], list) else [columns["text"]]
        return Sample(columns["source"], columns["image"]["bytes"], tuple(text), columns)

    def merge(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """The dataset's provenance with that of the added columns."""
        before, added = self.provenance, provenance
        counts = before["counts"] | {name: added["counts"][name] for name in ("rows", "bytes")}
        counts["rejects"] = Counter(before["counts"]["rejects"]) + Counter(added["counts"]["rejects"])
        return {
            **before,
            "annotators": [*before["annotators"], *added["annotators"]],
            "counts": counts,
        }


def _table(path: Path) -> pa.Table:
    """A data file; Arrow is mapped, not read."""
    if path.suffix == ".parquet":
        return pq.read_table(path)
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def take_places(layout: Layout, staging: Layout, counts: Counts) -> Plan:
    """Move the finished dataset in `staging` over the one at `layout`; its plan.

    Every step can be repeated. done.json is last: while it is in `staging`, the moves go on there.
    """
    moving = [path for path in staging.root.rglob("*") if path.is_file() and path not in (staging.done, staging.lock)]
    for path in sorted(moving):
        target = layout.root / path.relative_to(staging.root)
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
    wanted = {layout.root / file["name"] for file in counts.files}
    for file in files(layout.root):
        if file.path not in wanted:
            file.path.unlink()
    plan = Plan.load(layout.private)
    if plan is None:
        raise DatasetError(f"{layout.private / 'plan.json'} is gone; build the dataset anew with --overwrite")
    staging.done.replace(layout.done)
    shutil.rmtree(staging.root)
    return plan
