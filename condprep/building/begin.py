"""Before the first picture: is this a new build or one that goes on, what does it run, and in which shards?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyarrow as pa

from condprep import __version__
from condprep.annotators.protocol import Annotator
from condprep.building.load_annotators import batch_size, describe, load_annotators
from condprep.building.machine import describe_machine
from condprep.building.options import BuildOptions
from condprep.building.plan import Plan, check_config, check_inputs, make_plan
from condprep.building.retry_rejects import ask_again, take_back
from condprep.building.shard import ShardBuilder
from condprep.dataset.columns import columns, further_column
from condprep.dataset.layout import Layout
from condprep.errors import DatasetError, SourceError
from condprep.runtime.progress import Progress
from condprep.sources.base import Source
from condprep.sources.chosen import InOrder
from condprep.weights.find import Weights


def begin(
    layout: Layout,
    source: Source,
    options: BuildOptions,
    *,
    overwrite: bool = False,
    device: str,
    weights: Weights,
    progress: Callable[[Progress], None],
    existing: Mapping[str, pa.DataType] | None = None,
    retry: Collection[str] = (),
) -> ShardBuilder | None:
    """What builds the shards that are missing at `layout`, whose lock is held; None where the dataset is finished.

    existing: the columns of the dataset to which the annotators' are added. retry: codes of rejects that are tried again,
    or "all". Raises DatasetError where a build was begun
    there with other settings or inputs, SourceError where the source is empty.
    """
    requested = as_requested(source, options)
    plan = None if overwrite else Plan.load(layout.private)
    if plan and layout.appending.exists():
        raise DatasetError(f"{layout.root} is being added to; run the command with --append again, and it goes on")
    if plan and plan.sizes:  # further shards were added, whose inputs lie between the others by now
        source = InOrder(source, [entry.name for shard in range(plan.shards) for entry in plan.entries(shard)])
    if plan:
        check_config(plan, {"condprep": __version__, "requested": requested})
        if retry:
            plan = ask_again(layout, plan, source, retry)
        else:
            check_inputs(plan, source)
        take_back(layout)
        if layout.done.exists():
            return None
    annotators = load_annotators(source, options, plan, device, weights)
    made = {"annotators": describe(annotators, options), "machine": describe_machine(annotators.values())}
    if plan:
        check_config(plan, made)
    else:
        size = batch_size(annotators, options)
        config = {"condprep": __version__, "requested": requested, "batch_size": size} | made
        plan = _write_plan(layout, source, config, options.shard_rows, progress)
    kinds = _columns(annotators, options, existing)
    return ShardBuilder(layout, plan, source, options, annotators, kinds, progress)


def as_requested(source: Source, options: BuildOptions) -> dict[str, Any]:
    """What is asked for, as the plan records it."""
    return {"options": options.model_dump(mode="json"), "source": dict(source.identity)}


def _write_plan(
    layout: Layout, source: Source, config: Mapping[str, Any], shard_rows: int, progress: Callable[[Progress], None]
) -> Plan:
    """A new plan, in the place of whatever was built there."""
    layout.clear()
    plan = make_plan(layout.private, source, config, shard_rows, lambda n: progress(Progress("list", n, None)))
    if not plan.inputs:
        layout.clear()
        raise SourceError("the source holds no pictures; give a folder, tar, parquet or dataset that does")
    return plan


def _columns(
    annotators: Mapping[str, Annotator], options: BuildOptions, existing: Mapping[str, pa.DataType] | None
) -> dict[str, pa.DataType]:
    """The columns of the dataset, in order."""
    further = {
        further_column(column, annotator.name, name): kind
        for column, annotator in annotators.items()
        for name, kind in annotator.columns.items()
    }
    return columns(list(annotators), further, captions=options.captions, base=existing)
