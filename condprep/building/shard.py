"""A shard is a job: its inputs become rows and rejects, which are written and committed together.

What is in a shard follows from the plan alone, so whoever builds it, and however often, makes the same bytes. Pictures
are pulled through the threads in the order of the plan, and a bounded number is under way: memory does not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import chain, count

import pyarrow as pa

from condprep.annotators.protocol import Annotator
from condprep.building.device_stage import DeviceStage
from condprep.building.options import BuildOptions
from condprep.building.picture import Input, PictureStage
from condprep.building.plan import Plan
from condprep.dataset.columns import arrow_schema
from condprep.dataset.layout import Layout
from condprep.dataset.shards import Counts, Row, ShardWriter
from condprep.engines.local import Threads
from condprep.runtime.concurrency import in_order, lots, ordered_map, under_way
from condprep.runtime.progress import Progress
from condprep.sources.base import Source
from condprep.types import Reject

PER_TASK = 4  # pictures that a thread does before it hands them on: handing on takes a fiftieth of a picture's time
ENCODED_AHEAD = 64  # finished rows for each thread: none needs to stop while a shard goes onto the disk
PIXELS_AHEAD = 16  # the same where the pictures wait as pixels, for a network

Outcomes = Future[list[Row | Reject]]  # what becomes of a few inputs


class ShardBuilder:
    """Builds shards of a plan into `layout`. An engine decides which, where and when."""

    def __init__(
        self,
        layout: Layout,
        plan: Plan,
        source: Source,
        options: BuildOptions,
        annotators: Mapping[str, Annotator],
        columns: Mapping[str, pa.DataType],
        progress: Callable[[Progress], None],
    ) -> None:
        """annotators: by the columns of their maps. columns: of the dataset, in order."""
        self.layout, self.plan, self.options, self.columns, self.progress = layout, plan, options, columns, progress
        self.pending = [shard for shard in range(plan.shards) if not layout.shard(shard).exists()]
        self._done, self._rejects = plan.inputs - sum(map(plan.rows, self.pending)), 0
        self._pictures = PictureStage(source, options, annotators)
        self._device = DeviceStage(annotators, plan.config["batch_size"])

    def build_shard(self, shard: int, outcomes: Iterator[Outcomes]) -> Counts:
        """Write and commit a shard. outcomes: of its inputs, in order; no more are taken than it has."""
        suffix, most = f".{self.options.format}", self.options.shard_bytes
        with ShardWriter(self.layout.shard(shard), arrow_schema(self.columns), suffix, most) as writer:
            while writer.counts.inputs < self.plan.rows(shard):
                for outcome in next(outcomes).result():
                    writer.add(outcome)
                    self._tell(outcome)
        return writer.counts

    def outcomes(self, shards: Sequence[int], threads: Threads) -> Iterator[Outcomes]:
        """The inputs of these shards on their way through the threads, a few at a time, in the order of the plan.

        They are one stream: while the last rows of a shard are written, the first pictures of the next are under way.
        """
        per_task, ahead = self._bounds(threads.workers)
        inputs = self._inputs(shards, per_task)
        prepare, finish = self._pictures.prepare, self._pictures.finish
        if not self._device.networks:
            whole = ((None, map(finish, map(prepare, lot))) for lot in inputs)
            return (task for _, task in under_way(threads.cpu, list, whole, ahead // per_task))
        prepared = ordered_map(threads.cpu, list, (map(prepare, lot) for lot in inputs), ahead // per_task)
        batches = self._device.batches(chain.from_iterable(prepared))
        annotated = chain.from_iterable(ordered_map(threads.device, self._device.annotate, batches, 2))
        finished = under_way(threads.cpu, list, ((item[0].number, map(finish, [item])) for item in annotated), ahead)
        return (task for _, task in in_order(finished, lambda numbered: numbered[0]))

    def _inputs(self, shards: Sequence[int], per_task: int) -> Iterator[list[Input]]:
        numbers = count()
        for shard in shards:
            inputs = (Input(next(numbers), shard, entry) for entry in self.plan.entries(shard))
            yield from lots(inputs, per_task)

    def _bounds(self, workers: int) -> tuple[int, int]:
        """Pictures that a thread does before it hands them on, and pictures under way at most."""
        waiting = 2 * self._device.batch_size * bool(self._device.networks)
        if self.options.fit == "keep":  # then pictures may be huge
            return 1, workers + waiting
        return PER_TASK, (PIXELS_AHEAD if self._device.networks else ENCODED_AHEAD) * workers + waiting

    def _tell(self, outcome: Row | Reject) -> None:
        self._done, self._rejects = self._done + 1, self._rejects + isinstance(outcome, Reject)
        self.progress(Progress("build", self._done, self.plan.inputs, self._rejects))
