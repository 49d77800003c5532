"""`condprep.split`: held-out rows of a dataset that has none, or another share of them.

Rows move between the splits `train` and `validation` and keep their bytes. The dataset is written anew beside its files, which
then take their places, as where columns are added: killed at any moment, the same call goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from condprep.building.add_columns import take_places
from condprep.building.output_folder import changing, disk_errors, layout_of
from condprep.building.plan import Plan
from condprep.curation.copying import Copy, readable
from condprep.curation.rows import Records, StoredRows, as_row, without_map
from condprep.dataset.card import write_card
from condprep.dataset.columns import check_named, check_own
from condprep.dataset.layout import Layout, place_files
from condprep.dataset.reader import batches, schema
from condprep.dataset.shards import Counts, Row
from condprep.dataset.splits import BY, By, group_of, split_by
from condprep.errors import DatasetError, UsageError
from condprep.runtime.files import commit_json, read_json
from condprep.runtime.own import make_folder, remove, remove_tree
from condprep.runtime.progress import Progress


@dataclass(frozen=True)
class SplitResult:
    """What `split` made."""

    path: Path
    rows: Mapping[str, int]  # split -> rows
    moved: int  # rows that are in another split now
    seconds: float
    url: str | None = None  # of a dataset that is not here: then `path` is the working folder


def split(
    dataset: str | Path,
    validation: float,
    *,
    by: By = "key",
    break_lock: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> SplitResult:
    """Hold out a share of the rows of a dataset that condprep built, 0 to below 1; rows of `test` stay there.

    by: what decides. "key": each picture's own key, as `build(validation=...)` does. "group": the folder, or the tar, that a
    picture comes from, all of whose pictures stay together. Raises UsageError for a share that cannot be, a dataset of
    others, and groups of which there is one only.
    """
    began = time.monotonic()
    if not 0 <= validation < 1:
        raise UsageError(f"validation = {validation}: it must be a share, 0 to below 1; 0.02 is one row in 50")
    if by not in BY:
        raise UsageError(f"by = {by!r}: it must be {' or '.join(BY)}")
    layout = layout_of(dataset)
    with disk_errors(layout.root), changing(layout, break_lock, "make one of it with `condprep build` first"):
        staging = Layout(layout.private / "into")
        if staging.done.exists():  # of a run that was stopped, whatever it did
            take_places(layout, staging)
        run = _Run(layout, validation, by, progress)
        moved = run.moved
        if moved:
            run.copy()
            run.finish()
        remove_tree(staging.root, ignore_errors=True)
        rows, url = dict(Counts.load(layout.done).rows), layout.url
    return SplitResult(layout.root, rows, moved, time.monotonic() - began, url)


class _Run:
    """One call of `split`."""

    def __init__(self, layout: Layout, validation: float, by: By, progress: Callable[[Progress], None]) -> None:
        self.layout, self.progress = layout, progress
        self.validation, self.by = validation, by
        self.rows, self.records = StoredRows(layout.root, {}), Records(layout)
        rows = {layout.root / file["name"]: file["rows"] for file in Counts.load(layout.done).files}
        for file in self.rows.files:
            if file.path not in rows:
                raise DatasetError(f"{file.path} is no file of the build that made this dataset; move it elsewhere")
        self.lengths = [rows[file.path] for file in self.rows.files]
        for file in self.rows.files:
            check_own(str(file.path), schema(file.path))

    @cached_property
    def staging(self) -> Layout:
        asked = sha256(json.dumps(self._asked, sort_keys=True).encode()).hexdigest()[:16]
        return self.layout.staging("into", asked)

    @cached_property
    def plan(self) -> Plan:
        return Plan(self.staging.private, self._asked, sum(self.lengths), self._shard_rows, self.rows.listing)

    @cached_property
    def _asked(self) -> dict[str, Any]:
        return {"validation": self.validation, "by": self.by, "listing": self.rows.listing}

    @property
    def _shard_rows(self) -> int:
        return int(self.records.options["shard_rows"])

    @cached_property
    def moved(self) -> int:
        """How many rows are not where they belong. Raises UsageError where all of them are one group."""
        groups: set[str] = set()
        moved = 0
        for file in self.rows.files:
            for batch in batches(file.path, ["key", "source"]):
                for row in batch.to_pylist():
                    moved += self._belongs(file.split, row) != file.split
                    groups.add(group_of(row["source"]) if self.by == "group" and len(groups) < 2 else "")
        if self.by == "group" and len(groups) < 2:
            raise UsageError(f"all rows of {self.layout.root} come from one folder or tar; split them by key")
        return moved

    def _belongs(self, now: str, row: Mapping[str, Any]) -> str:
        if now == "test":
            return now
        key, source = row["key"], row["source"]
        check_named(str(self.layout.root), key, source)
        return split_by(self.by, key, source, self.validation)

    def copy(self) -> None:
        """Every shard that is not there yet, of the same rows in the same order."""
        asked = self.staging.private / "split.json"
        if not asked.exists() or read_json(asked) != self._asked:
            self.staging.discard()
            make_folder(self.staging.private)
            commit_json(asked, self._asked)
        self.staging.begin()
        self._copy.run(self._outcomes)

    @property
    def _copy(self) -> Copy:
        limit = int(self.records.options["shard_bytes"])
        return Copy(self.staging, self.plan, self.rows.schema, f".{self.rows.form}", limit, self.progress)

    def _outcomes(self, start: int) -> Iterator[Row]:
        for row in self.rows.read(self.lengths, start, self.plan.inputs):
            values = readable(row, self.layout.root).values or {}
            yield as_row(replace(row, split=self._belongs(row.split, values)), self.rows)

    def finish(self) -> None:
        """Names, plan, card, `done.json` last; then the files take their places."""
        self.progress(Progress("finish", self.plan.inputs, self.plan.inputs))
        with self.layout.exchanged():
            self._exchange()

    def _exchange(self) -> None:
        staging = self.staging
        total = place_files(
            staging, self._copy.counts(), self.rows.features, self.rows.form, self.plan.id, self.records.rejects
        )
        before = self.records.provenance or {}
        total.rejects = Counts.load(self.layout.done).rejects
        total.without_map = without_map(total.without_map, before["counts"]["without_map"])
        commit_json(staging.private / "plan.json", self._plan())
        write_card(staging, before | {"counts": before["counts"] | {"rows": total.rows, "bytes": total.bytes}})
        remove(self.layout.private / "shards.json", missing_ok=True)  # of which the files are others now
        commit_json(staging.done, vars(total))
        take_places(self.layout, staging)

    def _plan(self) -> dict[str, Any]:
        """That of the build, whose command with this share finds its dataset finished."""
        plan: dict[str, Any] = read_json(self.layout.private / "plan.json")
        held_out = {"validation": self.validation, "validation_by": None if self.by == "key" else self.by}
        plan["config"]["requested"]["options"] |= held_out
        return plan
