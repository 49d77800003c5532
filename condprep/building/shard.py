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

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, count, islice
from typing import TypeVar

import pyarrow as pa

from condprep.annotators.protocol import Annotator
from condprep.building.device_stage import REJECT, DeviceStage, held
from condprep.building.keeping import Keeper, Pace, Turn, kept_of, segments_of
from condprep.building.options import BuildOptions
from condprep.building.picture import Draft, Found, Input, Item, PictureStage
from condprep.building.plan import Plan
from condprep.dataset.columns import arrow_schema
from condprep.dataset.layout import Layout
from condprep.dataset.segments import Kept, Segments
from condprep.dataset.shards import SUFFIXES, Counts, Row, ShardWriter
from condprep.engines.local import Threads
from condprep.errors import PassingFault, ShardFault
from condprep.runtime.concurrency import in_order, lots
from condprep.runtime.memory import Room, usable_memory
from condprep.runtime.progress import Progress
from condprep.runtime.torch_threads import one_torch_thread
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
Done = tuple[Input, Outcome]
R = TypeVar("R", Item, Done)
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
        sharing: int = 1,
        writer: str = "",
        pending: Sequence[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """annotators: by the columns of their maps. columns: of the dataset, in order. memory: bytes of all pictures
        that are under way; one that takes more by itself is prepared alone. Default: a quarter of what there is.
        sharing: processes that share this machine's memory.
        writer: as `ShardWriter` takes it. pending: the shards that are missing, where that is known. clock: in seconds, for
        when rows are kept."""
        self.layout, self.plan, self.options, self.columns, self.progress = layout, plan, options, columns, progress
        self.pending = layout.missing(plan.shards) if pending is None else pending
        self.memory, self._writer, self._total = memory or usable_memory() // SHARE, writer, plan.inputs
        self._id, self._clock, self._rejects = plan.id, clock, 0
        self._going_on: dict[int, Kept] = {}  # what is kept of shards whose inputs are under way
        self._begin()
        self._pictures = PictureStage(source, options, annotators)
        config, pause = plan.config, self._pictures.pause
        self._device = DeviceStage(annotators, config["batch_size"], pause, config.get("network_memory"), sharing)

    def build_shard(self, shard: int, outcomes: Iterator[Done]) -> Counts:
        """Write a shard. outcomes: of its inputs, in order; no more are taken than it has.

        Raises ShardFault where it is given up: nothing of it is kept, and `outcomes` go on with the next shard.
        """
        fault: PassingFault | None = None
        schema, suffix, most = arrow_schema(self.columns), SUFFIXES[self.options.format], self.options.shard_bytes
        kept, segments = self._going_on.pop(shard), self._segments(shard)
        inputs = len(kept.again) + self.plan.rows(shard) - kept.end
        with (
            Keeper(segments, schema, kept.end, self._pace) as keeper,
            ShardWriter(self.layout.shard(shard), schema, suffix, most, self._writer) as writer,
        ):
            for outcome in _read_kept(kept):
                if isinstance(outcome, PassingFault):
                    fault = outcome
                else:
                    writer.add(outcome)
            for input, outcome in islice(outcomes, inputs):
                if isinstance(outcome, PassingFault):
                    fault = fault or outcome
                elif not fault:
                    if input.turn.again is None:
                        writer.add(outcome)
                    keeper.add(input.turn, outcome)
                self._room.free(_size((input, outcome)))
                if not self._device.networks:
                    self._tell(input, outcome)
            if fault:
                raise ShardFault(str(fault)) from fault
            if writer.counts.inputs < self.plan.rows(shard):
                raise RuntimeError(
                    f"{writer.counts.inputs} outcomes of {self.plan.rows(shard)} inputs in shard {shard}"
                )
        self._pace.kept()
        return writer.counts

    @property
    def sends(self) -> bool:
        """Whether a shard that is written is yet to go somewhere."""
        return self.layout.target is not None

    def commit(self, shard: int) -> None:
        """What was written of a shard is where it belongs. Raises TargetFault."""
        self.layout.commit_shard(shard)
        self._segments(shard).remove()

    def keep_to(self, shards: Collection[int]) -> None:
        """Build no others."""
        self.pending = [shard for shard in self.pending if shard in shards]
        self._total = sum(map(self.plan.rows, shards))
        self._begin()
        self.tell(0, 0)

    def _begin(self) -> None:
        """Count what is there already."""
        self.kept = kept_of(self.layout, self.plan, self.pending)  # inputs of shards that are not committed
        self._done = self._total - sum(map(self.plan.rows, self.pending)) + self.kept

    def hand_over(self) -> None:
        """Give up the networks: builders in other processes load their own."""
        del self._pictures, self._device

    def tell(self, done: int, rejects: int) -> None:
        """How many inputs other processes have done, and how many of them are rejects."""
        self.progress(Progress("build", min(self._done + done, self._total), self._total, rejects))

    def outcomes(self, shards: Iterable[int], threads: Threads) -> Iterator[Done]:
        """What becomes of the inputs of these shards, in the order of the plan.

        They are one stream: while the last rows of a shard are written, the pictures of the next are under way.
        """
        self._pace, waiting = Pace(self._clock), self._device.pending
        most = waiting + waiting // 4 + BUFFER
        self._room = Room(max(self.memory, most + BUFFER), most, TASKS * threads.workers)
        threads.at_end(self._room.close)
        threads.at_end(self._pictures.ending.set)
        found = self._read(self._inputs(shards), threads)
        if not self._device.networks:
            whole = threads.ahead("feed", self._feed(found, threads, self._whole))
            return chain.from_iterable(map(_result, whole))
        if not self._device.on_cpu:
            threads.within(one_torch_thread())
        prepare: Work[Item] = partial(map, self._pictures.prepare)
        prepared = threads.ahead("feed", self._feed(found, threads, prepare))
        batches = self._device.batches(chain.from_iterable(map(_result, prepared)))
        filled = threads.ahead("batches", map(self._device.fill, batches), BATCHES_AHEAD)
        seen = threads.ahead("device", map(self._device.see, filled), BATCHES_AHEAD)
        finished = threads.ahead("results", self._finish(map(self._device.wait, seen), threads))
        told = map(self._told, chain.from_iterable(map(_result, finished)))
        return in_order(told, lambda done: done[0].number)

    def _inputs(self, shards: Iterable[int]) -> Iterator[list[Input]]:
        numbers = count()
        for shard in shards:
            kept = self._going_on[shard] = self._take_up(shard)
            entries = self.plan.entries(shard)
            again = (Turn(one.place, one.weight) for one in kept.again)
            turns = chain(again, map(Turn.alone, range(kept.end, len(entries))))
            yield from lots((Input(next(numbers), shard, entries[turn.place], turn) for turn in turns), PER_TASK)

    def _take_up(self, shard: int) -> Kept:
        """What is kept of a shard, and sound."""
        segments = self._segments(shard)
        promised, kept = segments.look().end, segments.read(arrow_schema(self.columns))
        if promised != kept.end:
            self.kept, self._done = self.kept - promised + kept.end, self._done - promised + kept.end
        return kept

    def _segments(self, shard: int) -> Segments:
        return segments_of(self.layout, self.plan, shard, self._id)

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

    def _whole(self, lot: list[Found]) -> Iterator[Done]:
        """A picture's whole way, where no network looks at it."""
        inputs = [found.input for found in lot]
        return zip(inputs, map(self._pictures.finish, map(self._pictures.prepare, lot)))

    def _finish(self, batches: Iterable[list[Item]], threads: Threads) -> Iterator[Future[list[Done]]]:
        for lot in chain.from_iterable(lots(items, PER_TASK) for items in batches):
            yield threads.cpu.submit(self._finish_lot, lot)

    def _finish_lot(self, lot: list[Item]) -> list[Done]:
        before = sum(map(held, lot))
        outcomes = [self._pictures.finish(item) for item in lot]
        done = [(input, outcome) for (input, _), outcome in zip(lot, outcomes)]
        self._room.free(before - sum(map(_size, done)))
        return done

    def _told(self, done: Done) -> Done:
        """What networks have seen counts when it comes, though the rows before it may still be under way."""
        self._tell(*done)
        return done

    def _tell(self, input: Input, outcome: Outcome) -> None:
        if input.turn.again is None:
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


def _read_kept(kept: Kept) -> Iterator[Outcome]:
    """What is kept, and at its end why it could not be read, where storage fails."""
    try:
        yield from kept.outcomes()
    except OSError as error:
        yield PassingFault(f"{error.filename or 'what was kept of a shard'}: {error.strerror}")


def _size(one: Item | Done) -> int:
    """Bytes that it holds."""
    state = one[1]
    if isinstance(state, Row):
        return state.size
    return state.held if isinstance(state, Draft) else REJECT
