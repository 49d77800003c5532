"""Before the first picture: is this a new build or one that goes on, what does it run, and in which shards?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Protocol

import pyarrow as pa

from condprep import __version__
from condprep.building.growing import has_grown
from condprep.building.load_annotators import Begun, Loaded, load
from condprep.building.options import BuildOptions
from condprep.building.plan import Plan, changed_since, check_config, check_inputs, make_plan
from condprep.building.retry_rejects import ask_again, take_back
from condprep.building.shard import ShardBuilder
from condprep.dataset.layout import Layout
from condprep.dataset.splits import group_of
from condprep.errors import DatasetError, SourceError, UsageError
from condprep.runtime.progress import Progress
from condprep.sources.base import Source
from condprep.sources.chosen import InOrder
from condprep.sources.offered import OFFER
from condprep.weights.find import Weights


class Cluster(Protocol):
    """Machines that build for this one."""

    def load(self, begun: Begun | None) -> Loaded:
        """What they have loaded, as they say themselves. begun: annotators that are on record."""
        ...


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
    cluster: Cluster | None = None,
    sizes: Sequence[int] = (),
    called: str = "the source",
) -> ShardBuilder | None:
    """What builds the shards that are missing at `layout`, whose lock is held; None where the dataset is finished.

    existing: the columns of the dataset to which the annotators' are added. retry: codes of rejects that are tried again,
    or "all". cluster: loads the annotators where the shards will be built. sizes: of the shards of a new plan, where
    they are not all full. called: the source, for who is told of it. Raises DatasetError where a build was begun there with
    other settings or inputs, SourceError where the source is empty.
    """
    requested = as_requested(source, options)
    plan = None if overwrite else Plan.load(layout.private)
    if plan and layout.appending.exists():
        raise DatasetError(f"{layout.root} is being added to; run the command with --append again, and it goes on")
    if plan and plan.sizes:  # further shards were added, whose inputs lie between the others by now
        source = InOrder(source, [entry.name for shard in range(plan.shards) for entry in plan.entries(shard)])
    if plan:
        if has_grown(plan, requested):
            raise changed_since(plan, source)
        check_config(plan, {"condprep": __version__, "requested": requested})
        if retry:
            plan = ask_again(layout, plan, source, retry)
        else:
            check_inputs(plan, source)
        take_back(layout)
        if layout.done.exists():
            return None
    load_them = cluster.load if cluster else partial(load, source, options, device=device, weights=weights)
    loaded = load_them(plan.config["annotators"] if plan else None)
    made = {"annotators": loaded.described, "machine": loaded.machine}
    if plan:
        check_config(plan, made)
    else:
        of_device = {"batch_size": loaded.batch_size, "network_memory": loaded.network_memory}
        config = {"condprep": __version__, "requested": requested} | of_device | made
        plan = _write_plan(layout, source, config, options, progress, sizes, called)
        for said in (kind for kind in plan.notes if kind.startswith(OFFER)):  # at once, not only at the end
            weights.say(said)
    columns = loaded.columns(options, existing)
    builder = ShardBuilder(layout, plan, source, options, loaded.annotators, columns, progress)
    builder.tell(0, 0)
    return builder


def as_requested(source: Source, options: BuildOptions) -> dict[str, Any]:
    """What is asked for, as the plan records it."""
    return {"options": options.model_dump(mode="json"), "source": dict(source.identity)}


def _write_plan(
    layout: Layout,
    source: Source,
    config: Mapping[str, Any],
    options: BuildOptions,
    progress: Callable[[Progress], None],
    sizes: Sequence[int],
    called: str,
) -> Plan:
    """A new plan, in the place of whatever was built there."""
    layout.clear()
    rows = options.shard_rows
    plan = make_plan(layout.private, source, config, rows, lambda n: progress(Progress("list", n, None)), sizes)
    if not plan.inputs:
        layout.clear()
        others = "; ".join(
            f"{noted['count']:,} x {kind} ({noted['names'][0]} ...)" for kind, noted in plan.notes.items()
        )
        raise SourceError(
            f"{called} holds no pictures{others and f', but {others}'}; give a folder, tar, parquet or dataset that does"
        )
    if options.validation_by and not sizes and _is_one_group(plan):
        layout.clear()
        raise UsageError(
            "all inputs come from one folder or tar, and --validation-by group would part none; leave it out"
        )
    return plan


def _is_one_group(plan: Plan) -> bool:
    entries = chain.from_iterable(plan.entries(shard) for shard in range(plan.shards))
    first = group_of(next(entries).name)
    return all(group_of(entry.name) == first for entry in entries)
