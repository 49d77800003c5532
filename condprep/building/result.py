"""What a build made, in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condprep.building.plan import Plan
from condprep.building.shard import ShardBuilder
from condprep.dataset.layout import Layout
from condprep.dataset.shards import Counts
from condprep.errors import DatasetError
from condprep.types import Notes


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


def build_result(
    layout: Layout, builder: ShardBuilder | None, counts: Counts, built: Counts, seconds: float
) -> BuildResult:
    """builder: None where there was nothing left to do. counts: of the dataset; built: of what this run built.

    Raises DatasetError where the plan is gone.
    """
    plan = builder.plan if builder else Plan.load(layout.private)
    if plan is None:
        raise DatasetError(f"{layout.private / 'plan.json'} is gone; start afresh with --overwrite")
    notes = Notes()
    notes.merge(plan.notes)
    notes.merge(counts.notes)
    return BuildResult(
        path=layout.root,
        inputs=plan.inputs,
        rows=dict(counts.rows),
        rejects=dict(counts.rejects),
        bytes=counts.bytes,
        enlarged=counts.enlarged,
        untouched=counts.untouched,
        without_caption=counts.without_caption,
        without_map=dict(counts.without_map),
        annotators=plan.config["annotators"],
        resumed=plan.inputs - built.inputs,
        seconds=seconds,
        notes=notes.found,
    )
