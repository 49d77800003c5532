"""From rows to batches: what the loop iterates over, on every process, from any point on."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from condprep.images.geometry import Size
from condprep.runtime.concurrency import ordered_map
from condprep.runtime.threads import Ahead
from trainer.data.encoded import PartialBatch
from trainer.data.order import Order, Position, streamed
from trainer.data.rows import spread
from trainer.data.sampler import SampledRow, share, updates
from trainer.data.split import Split
from trainer.data.stream import StreamedRows, StreamedSizes
from trainer.models.loss import draw_for_training
from trainer.types import ONE_PROCESS, Batch, ProcessGroup


class Loader:
    """Endless batches of this process, `passes` of them for each update.

    The state counts the updates whose batches have all been handed out; what threads have prepared ahead is not in it. Of a
    stream it also says where the order stands.
    """

    def __init__(self, split: Split, micro_batch: int, group: ProcessGroup = ONE_PROCESS, pin: bool = False) -> None:
        """micro_batch: pictures of a batch; times the processes it divides train.batch. pin: into page-locked memory."""
        self.split, self.micro_batch, self.group, self.pin = split, micro_batch, group, pin
        self.updates = 0
        self.position = Position()  # of a stream
        self._positions = deque[Position]()  # that follow updates which are being read

    @property
    def passes(self) -> int:
        """Batches of this process in an update."""
        return self.split.recipe.train.batch // (self.micro_batch * self.group.size)

    def __iter__(self) -> Generator[Batch, None, None]:
        workers = self.split.recipe.data.num_workers
        with self._updates() as chosen:
            if not workers:
                yield from self._counted(map(self._read, self._shared(chosen)))
                return
            with ThreadPoolExecutor(workers) as pool:
                yield from self._counted(ordered_map(pool, self._read, self._shared(chosen), ahead=2 * workers))

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates} | ({"stream": self.position.written()} if self._is_streamed else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """To be called before iterating."""
        self.updates = state["updates"]
        if self._is_streamed:
            self.position = Position.read(state["stream"])

    @property
    def _is_streamed(self) -> bool:
        return isinstance(self.split.rows, StreamedRows)

    @contextmanager
    def _updates(self) -> Iterator[Iterator[Sequence[SampledRow]]]:
        """Those that come now; of a stream a thread chooses them ahead, since files are fetched and looked through for that."""
        train, rows, sizes = self.split.recipe.train, self.split.rows, self.split.sizes
        if not (isinstance(rows, StreamedRows) and isinstance(sizes, StreamedSizes)):
            yield islice(updates(self.split.buckets, train.batch, train.seed), self.updates, None)
            return
        order = Order(rows.shards.counts, self.split.recipe.data.window, train.seed)
        begin = partial(sizes.begin, group=self.group)
        chosen = streamed(order, train.batch, self.position, self.split.bucket, begin)
        ahead = Ahead(chosen, "stream", most=max(1, order.window // train.batch))
        try:
            yield self._remembered(ahead)
        finally:
            ahead.stop()
            ahead.join()

    def _remembered(self, chosen: Iterable[tuple[list[SampledRow], Position]]) -> Iterator[Sequence[SampledRow]]:
        """The updates; the positions that follow them wait until their batches have been handed out."""
        for update, position in chosen:
            self._positions.append(position)
            yield update

    def _shared(self, chosen: Iterable[Sequence[SampledRow]]) -> Iterator[Sequence[SampledRow]]:
        """The batches of this process."""
        for update in chosen:
            yield from share(update, self.micro_batch, self.group.rank, self.group.size)

    def _read(self, sampled: Sequence[SampledRow]) -> Batch:
        """Rows and what is random about them: a millisecond an update, which a thread has and the loop has not."""
        base, batch = self.split.base, self.split.batch(sampled)
        assert base is not None
        height, width = batch.conditions.shape[2:]
        shape = (len(batch), *base.latent_shape((height, width)))
        drawn = replace(batch, draws=draw_for_training(batch, self.split.recipe.train, base.objective, shape))
        if isinstance(drawn, PartialBatch):
            if not drawn.is_found:
                return drawn  # what is missing is encoded where the device is
            drawn = self.split.complete(drawn)
        return drawn.pinned() if self.pin else drawn

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(batches, 1):
            if number % self.passes == 0:
                self.updates += 1
                if self._positions:
                    self.position = self._positions.popleft()
            yield self.split.complete(batch)


def held_out_batches(split: Split, micro_batch: int, group: ProcessGroup = ONE_PROCESS) -> Iterator[Batch]:
    """This process's share of `eval.loss_rows` rows, evenly spread, the same each time: one bucket a batch, without chance."""
    batches = _held_out(split, micro_batch, group)
    return map(split.batch, batches[group.rank :: group.size])


def batches_to_keep_step(split: Split, micro_batch: int, group: ProcessGroup) -> Iterator[Batch]:
    """What a process that has a batch less than others passes forward, too, where passes are made together."""
    batches = _held_out(split, micro_batch, group)
    further = (number for number in group.share(len(batches)) if number >= len(batches))
    return (split.batch(batches[number % len(batches)]) for number in further)


def _held_out(split: Split, micro_batch: int, group: ProcessGroup) -> list[list[SampledRow]]:
    """The batches of all processes. Where passes are made together, without those of one row, which no process passes forward."""
    by_size: dict[Size, list[SampledRow]] = {}
    for row in spread(range(len(split.buckets)), split.recipe.eval.loss_rows):
        by_size.setdefault(split.buckets[row], []).append(SampledRow(row, 0))
    batches = [
        sampled[start : start + micro_batch]
        for sampled in by_size.values()
        for start in range(0, len(sampled), micro_batch)
    ]
    return [sampled for sampled in batches if len(sampled) > 1] if group.together else batches
