"""`condprep.merge`: datasets of the same columns become one, and every row keeps its bytes."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from condprep import __version__
from condprep.building.output_folder import at_target, check_outside, check_places, disk_errors, layout_of, locked
from condprep.building.plan import Plan, check_config
from condprep.curation.copying import SHARD_BYTES, SHARD_ROWS, Copy, readable
from condprep.curation.rows import Records, StoredRows, as_row, without_map
from condprep.dataset.card import write_card
from condprep.dataset.inspect import reject_code
from condprep.dataset.layout import Layout, place_files
from condprep.dataset.reader import batches
from condprep.dataset.records import primary_column
from condprep.dataset.shards import Counts, Row
from condprep.errors import UsageError
from condprep.runtime.files import commit_json, read_json
from condprep.runtime.own import remove_tree
from condprep.runtime.progress import Progress

OWN = ("condprep", "machine", "appended")  # of a merged dataset each part has its own
MADE = ("column", "annotator", "variant", "parameters", "weights")  # what must be the same of what made the maps


@dataclass(frozen=True)
class MergeResult:
    """What `merge` made."""

    path: Path
    rows: Mapping[str, int]  # split -> rows
    datasets: Sequence[int]  # rows that come from each, in their order
    repeated: int  # rows whose picture an earlier row has, by its key
    leaks: int  # of them, rows whose picture an earlier row of another split has
    resumed: int  # rows that an earlier run had copied already
    seconds: float
    url: str | None = None  # of a dataset that is not here: then `path` is the working folder


def merge(
    datasets: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    break_lock: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> MergeResult:
    """Join datasets of Arrow or Parquet files into one at `out`, one behind the other; rows keep their splits.

    The columns must be the same, and so must what made the maps, where that is known. Nothing is encoded anew. Raises UsageError (or
    its children) for what the caller got wrong, and where a row cannot be read.
    """
    began = time.monotonic()
    if len(datasets) < 2:
        raise UsageError("give two datasets to merge, or more")
    layout = layout_of(out)
    for dataset in datasets:
        check_places(os.fspath(dataset), layout)
        check_outside(os.fspath(dataset), layout)
    run = _Run([StoredRows(dataset, {}) for dataset in datasets], layout, progress)
    run.check()
    with disk_errors(layout.root), at_target(layout, overwrite, break_lock), locked(layout):
        run.begin(None if overwrite else Plan.load(layout.private))
        resumed = run.copy.run(run.outcomes)
        made = run.finish()
    return MergeResult(layout.root, **made, resumed=resumed, seconds=time.monotonic() - began, url=layout.url)


class _Run:
    """One call of `merge`, in the order of its methods."""

    def __init__(self, parts: Sequence[StoredRows], layout: Layout, progress: Callable[[Progress], None]) -> None:
        self.parts, self.layout, self.progress = parts, layout, progress
        self.records = [Records(Layout(part.root)) for part in parts]

    def check(self) -> None:
        """Raises UsageError where they are not of one kind, and says what differs."""
        first, made = self.parts[0], self._made(self.records[0])
        for part, records in zip(self.parts[1:], self.records[1:]):
            here, there = (_kinds(one) for one in (first, part))
            differing = sorted(name for name in here | there if here.get(name) != there.get(name))
            if differing:
                name = differing[0]
                kinds = f"{here.get(name, 'not there')} and {there.get(name, 'not there')}"
                raise UsageError(
                    f"{first.dataset} and {part.dataset} differ in the column {name!r}: {kinds}; build both alike"
                )
            said, others = (_said(one) for one in (self.records[0], records))
            for name in [name for name in said if others and said[name] != others.get(name)]:
                raise UsageError(
                    f"{first.dataset} and {part.dataset} were built with another {name}: {said[name]} and {others.get(name)}; "
                    "build both alike"
                )
            if (other := self._made(records)) != made:
                raise UsageError(
                    f"the maps of {first.dataset} and {part.dataset} were made in different ways: {made} and {other}; build both alike"
                )

    def _made(self, records: Records) -> list[dict[str, Any]] | None:
        found = records.provenance
        if not found:
            return None
        return [{name: one.get(name) for name in MADE} for one in found["annotators"]]

    @cached_property
    def lengths(self) -> list[list[int]]:
        """Rows of each file of each dataset."""
        return [part.lengths(()) for part in self.parts]

    def begin(self, plan: Plan | None) -> None:
        """The plan: a new one, or that of a run that was stopped. Raises DatasetError where that was of others."""
        listing = hashlib.sha256("".join(part.listing for part in self.parts).encode()).hexdigest()
        source = {"kind": "merge", "datasets": [part.listing for part in self.parts]}
        options = self.records[0].options
        config = {"condprep": __version__, "requested": {"options": options, "source": source}}
        if plan:
            check_config(plan, config)
        config |= {"annotators": self.records[0].config.get("annotators", [])}
        rows, shard_rows = sum(map(sum, self.lengths)), self.records[0].limit("shard_rows", SHARD_ROWS)
        self.plan = Plan(self.layout.private, config, rows, shard_rows, listing)
        if not plan:
            if not rows:
                raise UsageError("none of the datasets has rows: there is nothing to merge")
            self.layout.clear()
            stored = {name: getattr(self.plan, name) for name in ("config", "inputs", "shard_rows", "listing")}
            commit_json(self.layout.private / "plan.json", stored)
            self.layout.begin()

    @property
    def copy(self) -> Copy:
        first, limit = self.parts[0], self.records[0].limit("shard_bytes", SHARD_BYTES)
        return Copy(self.layout, self.plan, first.schema, f".{first.form}", limit, self.progress)

    def outcomes(self, start: int) -> Iterator[Row]:
        """The rows from this number on, counted through all datasets."""
        for part, lengths in zip(self.parts, self.lengths):
            for row in part.read(lengths, min(start, sum(lengths)), sum(lengths)):
                yield as_row(readable(row, part.root), part)
            start = max(0, start - sum(lengths))

    def finish(self) -> dict[str, Any]:
        """Final names, records, card, `done.json` last. Returns the fields of the result that the dataset remembers."""
        made = self.layout.private / "merged.json"
        if not self.layout.done.exists():
            for part, listing in zip(self.parts, self.plan.config["requested"]["source"]["datasets"]):
                part.check_unchanged(listing)
            self.progress(Progress("finish", self.plan.inputs, self.plan.inputs))
            first = self.parts[0]
            rejects = b"".join(records.rejects for records in self.records)
            total = place_files(self.layout, self.copy.counts(), first.features, first.form, self.plan.id, rejects)
            total.rejects = Counter(map(reject_code, rejects.splitlines()))
            counted = [one["counts"]["without_map"] for records in self.records if (one := records.provenance)]
            total.without_map = without_map(total.without_map, sum(map(Counter, counted), Counter[str]()))
            repeated, leaks = self._repeated()
            datasets = [sum(lengths) for lengths in self.lengths]
            commit_json(made, {"rows": dict(total.rows), "datasets": datasets, "repeated": repeated, "leaks": leaks})
            self._describe(total)
            commit_json(self.layout.done, vars(total))
            self.layout.publish(file["name"] for file in total.files)
        remove_tree(self.layout.shards, ignore_errors=True)
        return dict(read_json(made))

    def _repeated(self) -> tuple[int, int]:
        """Rows whose key an earlier row has, and how many of those lie in another split than that one."""
        if "key" not in self.parts[0].schema.names:
            return 0, 0
        seen: dict[str, str] = {}
        repeated = leaks = 0
        for file in (file for part in self.parts for file in part.files):
            for batch in batches(file.path, ["key"]):
                for key in batch.column(0).to_pylist():
                    repeated += key in seen
                    leaks += seen.setdefault(key, file.split) != file.split
        return repeated, leaks

    def _describe(self, total: Counts) -> None:
        """Provenance and card, where all of them have such records: what all say, with the counts of all."""
        found = [one for records in self.records if (one := records.provenance)]
        if len(found) < len(self.records) or not total.rows:
            return
        counts = {"inputs": sum(one["counts"]["inputs"] for one in found)} | total.figures()
        said = {"condprep": __version__, "annotators": found[0]["annotators"], "geometry": found[0]["geometry"]}
        own = [{name: one[name] for name in OWN if name in one} for one in found]
        source = {"kind": "merge", "datasets": [one["source"] | more for one, more in zip(found, own)]}
        curation = [done for one in found for done in one.get("curation", [])]
        if primary := _said(self.records[0])["primary"]:
            said["primary"] = primary
        said |= {"source": source, "format": found[0]["format"], "counts": counts}
        write_card(self.layout, said | ({"curation": curation} if curation else {}))


def _said(records: Records) -> dict[str, Any]:
    """What a dataset of condprep says of all its rows beside what made the maps; nothing of others."""
    found = records.provenance
    if not found:
        return {}
    geometry = {"fit": "keep"}  # then nothing else matters
    if found["geometry"]["fit"] != "keep":
        geometry = {"decode": "exact"} | found["geometry"]  # which older datasets do not say
    return geometry | {"primary": primary_column(found, records.options)}


def _kinds(part: StoredRows) -> dict[str, str]:
    """The type of each column, whether from Arrow or Parquet; of numbers that stand for names these, too."""
    kinds = {column.name: str(column.type).replace("list<element: ", "list<item: ") for column in part.schema}
    for name, feature in part.features.items():
        if isinstance(feature, Mapping) and isinstance(names := feature.get("names"), list):
            kinds[name] += f" of the names {names}"
    return kinds
