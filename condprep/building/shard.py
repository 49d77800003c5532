"""A shard is a job: its inputs become rows and rejects, which are written and committed together.

What is in a shard follows from the plan alone, so whoever builds it, and however often, makes the same bytes. Inputs go
through stages in the order of the plan, each stage with a thread of its own or with all workers:

    feed       reads ahead, and lets pictures in as there is room            a thread; workers read
    prepare    decode, fit, encode, filters                                  workers
    batches    pictures of one shape are brought together                    a thread
    see        networks look at them                                         a thread: the device's
    wait       until what they saw is on the host                            a thread
    finish     draw, encode                                                  workers
    write      rows in the order of the plan                                 the caller's thread

Between the stages are queues, and what is in all of them together is bounded by
bytes where pictures are let in: memory does not grow. Whatever a stage waits for, the others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, count, islice
from typing import TypeVar

import pyarrow as pa

from condprep.annotators.protocol import Annotator
from condprep.building.device_stage import REJECT, DeviceStage, held
from condprep.building.options import BuildOptions
from condprep.building.picture import Found, Input, Item, PictureStage
from condprep.building.plan import Plan
from condprep.dataset.columns import arrow_schema
from condprep.dataset.layout import Layout
from condprep.dataset.shards import SUFFIXES, Counts, Row, ShardWriter
from condprep.engines.local import Threads
from condprep.errors import PassingFault, ShardFault
from condprep.runtime.concurrency import in_order, lots
from condprep.runtime.memory import Room, usable_memory
from condprep.runtime.progress import Progress
from condprep.sources.base import Source
from condprep.types import Reject

PER_TASK = 4  # pictures that a worker does before it hands them on: handing on takes a fiftieth of a picture's time
TASK_BYTES = 32_000_000  # of those pictures together, where it is more than one
READ_BYTES = 64_000_000  # that are read ahead, of more than one task
SHARE = 4  # of the memory that this process may use, pictures under way take a quarter
BUFFER = 64_000_000  # bytes of pictures on their way between two stages, beside those that wait for others
TASKS = 4  # a worker, that wait for it at most: what is nearer to its end waits behind them
BATCHES_AHEAD = 3  # of the device, and of those who wait for its results

Outcome = Row | Reject | PassingFault  # the latter of an input whose shard is given up
R = TypeVar("R", Item, Outcome)
_result = Future.result  # as it is: no frame of ours is between a row and who waits for it
Work = Callable[[list[Found]], Iterable[R]]


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
        memory: int | None = None,
        writer: str = "",
        pending: Sequence[int] | None = None,
    ) -> None:
        """annotators: by the columns of their maps. columns: of the dataset, in order. memory: bytes of all pictures
        that are under way; one that takes more by itself is prepared alone. Default: a quarter of what there is.
        writer: as `ShardWriter` takes it. pending: the shards that are missing, where that is known."""
        self.layout, self.plan, self.options, self.columns, self.progress = layout, plan, options, columns, progress
        self.pending = layout.missing(plan.shards) if pending is None else pending
        self.memory, self._writer, self._total = memory or usable_memory() // SHARE, writer, plan.inputs
        self._done, self._rejects = plan.inputs - sum(map(plan.rows, self.pending)), 0
        self._pictures = PictureStage(source, options, annotators)
        self._device = DeviceStage(annotators, plan.config["batch_size"], self._pictures.pause)

    def build_shard(self, shard: int, outcomes: Iterator[Outcome]) -> Counts:
        """Write and commit a shard. outcomes: of its inputs, in order; no more are taken than it has.

        Raises ShardFault where it is given up: nothing of it is kept, and `outcomes` go on with the next shard.
        """
        fault: PassingFault | None = None
        suffix, most = SUFFIXES[self.options.format], self.options.shard_bytes
        with ShardWriter(self.layout.shard(shard), arrow_schema(self.columns), suffix, most, self._writer) as writer:
            for outcome in islice(outcomes, self.plan.rows(shard)):
                if isinstance(outcome, PassingFault):
                    fault = fault or outcome
                elif not fault:
                    writer.add(outcome)
                self._room.free(_size(outcome))
                self._tell(outcome)
            if fault:
                raise ShardFault(str(fault)) from fault
            if writer.counts.inputs < self.plan.rows(shard):
                raise RuntimeError(
                    f"{writer.counts.inputs} outcomes of {self.plan.rows(shard)} inputs in shard {shard}"
                )
        self.layout.commit_shard(shard)
        return writer.counts

    def keep_to(self, shards: Collection[int]) -> None:
        """Build no others."""
        self.pending = [shard for shard in self.pending if shard in shards]
        self._total = sum(map(self.plan.rows, shards))
        self._done = self._total - sum(map(self.plan.rows, self.pending))

    def hand_over(self) -> None:
        """Give up the networks: builders in other processes load their own."""
        del self._pictures, self._device

    def tell(self, done: int, rejects: int) -> None:
        """How many inputs other processes have done, and how many of them are rejects."""
        self.progress(Progress("build", self._done + done, self._total, rejects))

    def outcomes(self, shards: Iterable[int], threads: Threads) -> Iterator[Outcome]:
        """What becomes of the inputs of these shards, in the order of the plan.

        They are one stream: while the last rows of a shard are written, the pictures of the next are under way.
        """
        waiting = self._device.pending
        most = waiting + waiting // 4 + BUFFER
        self._room = Room(max(self.memory, most + BUFFER), most, TASKS * threads.workers)
        threads.at_end(self._room.close)
        threads.at_end(self._pictures.ending.set)
        found = self._read(self._inputs(shards), threads)
        if not self._device.networks:
            whole = threads.ahead("feed", self._feed(found, threads, self._whole))
            return chain.from_iterable(map(_result, whole))
        prepare: Work[Item] = partial(map, self._pictures.prepare)
        prepared = threads.ahead("feed", self._feed(found, threads, prepare))
        batches = self._device.batches(chain.from_iterable(map(_result, prepared)))
        filled = threads.ahead("batches", map(self._device.fill, batches), BATCHES_AHEAD)
        seen = threads.ahead("device", map(self._device.see, filled), BATCHES_AHEAD)
        finished = threads.ahead("results", self._finish(map(self._device.wait, seen), threads))
        numbered = chain.from_iterable(map(_result, finished))
        return (outcome for _, outcome in in_order(numbered, lambda one: one[0]))

    def _inputs(self, shards: Iterable[int]) -> Iterator[list[Input]]:
        numbers = count()
        for shard in shards:
            inputs = (Input(next(numbers), shard, entry) for entry in self.plan.entries(shard))
            yield from lots(inputs, PER_TASK)

    def _read(self, inputs: Iterable[list[Input]], threads: Threads) -> Iterator[Found]:
        """What is read, a few tasks and bytes ahead."""
        waiting: deque[tuple[int, Future[list[Found]]]] = deque()
        for lot in inputs:
            size = sum(max(0, input.entry.size) for input in lot)
            while waiting and (len(waiting) > threads.workers or size + sum(one for one, _ in waiting) > READ_BYTES):
                yield from waiting.popleft()[1].result()
            waiting.append((size, threads.cpu.submit(list, map(self._pictures.read, lot))))
        while waiting:
            yield from waiting.popleft()[1].result()

    def _feed(self, found: Iterable[Found], threads: Threads, work: Work[R]) -> Iterator[Future[list[R]]]:
        """What was read, into the hands of the workers as there is room for it."""
        for lot in _tasks(found):
            cost = sum(one.cost for one in lot)
            self._room.take(cost)
            task = threads.cpu.submit(list, work(lot))
            task.add_done_callback(partial(self._prepared, cost))
            yield task

    def _prepared(self, cost: int, task: Future[list[R]]) -> None:
        if not task.cancelled() and not task.exception():  # else the build is at its end
            self._room.keep(cost, sum(map(_size, task.result())))

    def _whole(self, lot: list[Found]) -> Iterator[Outcome]:
        """A picture's whole way, where no network looks at it."""
        return map(self._pictures.finish, map(self._pictures.prepare, lot))

    def _finish(self, batches: Iterable[list[Item]], threads: Threads) -> Iterator[Future[list[tuple[int, Outcome]]]]:
        for lot in chain.from_iterable(lots(items, PER_TASK) for items in batches):
            yield threads.cpu.submit(self._finish_lot, lot)

    def _finish_lot(self, lot: list[Item]) -> list[tuple[int, Outcome]]:
        before = sum(map(held, lot))
        outcomes = [self._pictures.finish(item) for item in lot]
        self._room.free(before - sum(map(_size, outcomes)))
        return [(input.number, outcome) for (input, _), outcome in zip(lot, outcomes)]

    def _tell(self, outcome: Outcome) -> None:
        self._done, self._rejects = self._done + 1, self._rejects + isinstance(outcome, Reject)
        self.progress(Progress("build", self._done, self._total, self._rejects))


def _tasks(found: Iterable[Found]) -> Iterator[list[Found]]:
    """A few at a time; of large pictures fewer, so that all workers have some."""
    lot: list[Found] = []
    for one in found:
        if lot and (len(lot) == PER_TASK or sum(other.cost for other in lot) + one.cost > TASK_BYTES):
            yield lot
            lot = []
        lot.append(one)
    if lot:
        yield lot


def _size(one: Item | Outcome) -> int:
    """Bytes that it holds."""
    if isinstance(one, Row):
        return one.size
    return held(one) if isinstance(one, tuple) else REJECT
