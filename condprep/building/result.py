"""What a build made, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condprep.annotators.registry import in_order
from condprep.building.parts import Part
from condprep.building.plan import Plan
from condprep.building.shard import ShardBuilder
from condprep.dataset.layout import Layout
from condprep.dataset.shards import Counts
from condprep.errors import REJECTS, BuildFailed, DatasetError, UsageError
from condprep.types import Notes

CHANGED = "changed since it became a row, and left as it was"  # notes of `append`
GONE = "no longer in the source; its row stays"


@dataclass(frozen=True)
class BuildResult:
    """What a build made. inputs = sum of rows + sum of rejects."""

    path: Path
    inputs: int
    rows: Mapping[str, int]  # split -> rows
    rejects: Mapping[str, int]  # code -> inputs
    bytes: int  # of pictures and maps
    enlarged: int  # rows whose picture was enlarged
    untouched: int  # rows that hold the source's own bytes
    without_caption: int
    without_map: Mapping[str, int]  # "column: code" -> rows of a dataset to which columns were added
    annotators: Sequence[Mapping[str, Any]]  # provenance, one each
    resumed: int  # inputs that an earlier run had done already
    seconds: float  # of this run
    notes: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # what was left out: {kind: {"count", "names"}}
    changes: Mapping[str, int] = field(default_factory=dict)  # of `append`: "added", "replaced", "removed" -> rows
    part: str | None = None  # "0/4" where only the shards of that part were built; the figures are of them
    url: str | None = None  # of a dataset that is not here: then `path` is the working folder, with the records

    @property
    def stale(self) -> bool:
        """Whether rows of inputs that changed, or are gone, were left as they are."""
        return bool({CHANGED, GONE} & self.notes.keys())


def part_counts(layout: Layout, plan: Plan, part: Part) -> Counts:
    """What became of the inputs of a part whose shards are all there."""
    total = Counts()
    for shard in part.shards(plan.shards):
        total.merge(Counts.load(layout.shard(shard) / "counts.json"))
    return total


def build_result(
    layout: Layout,
    builder: ShardBuilder | None,
    counts: Counts,
    built: Counts,
    seconds: float,
    part: Part | None = None,
) -> BuildResult:
    """builder: None where there was nothing left to do. counts: of the dataset, or of a part of it; built: of what
    this run built.

    Raises DatasetError where the plan is gone.
    """
    plan = builder.plan if builder else Plan.load(layout.private)
    if plan is None:
        raise DatasetError(f"{layout.private / 'plan.json'} is gone; start afresh with --overwrite")
    notes, inputs = Notes(), counts.inputs if part else plan.inputs
    if not part:
        notes.merge(plan.notes)
    notes.merge(counts.notes)
    return BuildResult(
        path=layout.root,
        inputs=inputs,
        rows=dict(counts.rows),
        rejects=dict(counts.rejects),
        bytes=counts.bytes,
        enlarged=counts.enlarged,
        untouched=counts.untouched,
        without_caption=counts.without_caption,
        without_map=dict(counts.without_map),
        annotators=[in_order(made) for made in plan.config["annotators"]],
        resumed=inputs - built.inputs + (builder.kept if builder else 0),
        seconds=seconds,
        notes=notes.found,
        part=str(part) if part else None,
        url=layout.url,
    )


def check_share(max_rejects: float | None) -> None:
    """Raises UsageError."""
    if max_rejects is not None and not 0 <= max_rejects <= 1:  # nan, which is above nothing, among them
        raise UsageError(f"--max-rejects {max_rejects}: it is a share of the inputs, from 0 to 1")


def check_rejects(result: BuildResult, limit: float | None) -> None:
    """Raises BuildFailed where no row came out, or more than a share `limit` of the inputs were rejected."""
    rejected = sum(result.rejects.values())
    if not result.rows.get("train"):
        most = Counter(result.rejects).most_common(3)
        reasons = ", ".join(f"{code}: {REJECTS.get(code, 'see rejects.jsonl')} ({n})" for code, n in most)
        raise BuildFailed(f"none of {result.inputs} inputs became a row of the training split: {reasons}", result)
    if limit is not None and rejected > limit * result.inputs:
        share = rejected / result.inputs
        raise BuildFailed(
            f"{rejected} of {result.inputs} inputs ({share:.1%}) were rejected, more than {limit:.1%}", result
        )
