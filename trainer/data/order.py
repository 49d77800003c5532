"""The order in which rows are streamed: functions of the seed, the pass and the shards' numbers of rows, and of nothing else.

A pass goes through all shards one after the other, in an order that is drawn for it, in windows of so many rows, which may
begin and end within a shard. The rows of a window come in an order that is drawn for it, so no more shards than a window
covers are needed at a time. Where a pass stands is known without going through what came before.

Rows have the numbers that they have in the dataset: those of the first shard, then those of the second, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate, count
from typing import Any

import numpy as np

from trainer.data.sampler import SampledRow, Waiting

WINDOWS = 1  # beside an epoch: what is drawn for its windows, and not for its rows


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of one shard, one after the other."""

    shard: int
    rows: range  # of the dataset


@dataclass(frozen=True, slots=True)
class Position:
    """Up to where rows have been drawn, and which of them wait for an update of their bucket."""

    epoch: int = 0
    window: int = 0  # of the pass
    drawn: int = 0  # rows of the window
    waiting: tuple[SampledRow, ...] = ()

    def written(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"waiting": [[row.number, row.epoch] for row in self.waiting]}

    @classmethod
    def read(cls, written: dict[str, Any]) -> Position:
        return cls(**written | {"waiting": tuple(SampledRow(*row) for row in written["waiting"])})


@dataclass(frozen=True)
class Order:
    """counts: rows of each shard, of which one has some; window: rows that are shuffled together."""

    counts: Sequence[int]
    window: int
    seed: int

    def windows(self, epoch: int, first: int = 0) -> Iterator[list[Stretch]]:
        """What the windows of a pass are made of, from one of them on; the first one is shorter, by chance.

        So the windows of a shard that is longer than they are begin elsewhere in each pass.
        """
        random = np.random.default_rng((self.seed, epoch))
        shards = random.permutation(len(self.counts)).tolist()
        ends = np.cumsum([self.counts[shard] for shard in shards])
        early = int(random.integers(self.window))
        for start in range(first * self.window - early, int(ends[-1]), self.window):
            yield list(self._stretches(shards, ends, max(0, start), start + self.window))

    def _stretches(self, shards: Sequence[int], ends: np.ndarray, start: int, stop: int) -> Iterator[Stretch]:
        """start, stop: places in the pass."""
        for at in range(int(np.searchsorted(ends, start, "right")), len(shards)):
            shard, begin = shards[at], int(ends[at]) - self.counts[shards[at]]
            if begin >= stop:
                return
            here = range(max(start, begin) - begin, min(stop, int(ends[at])) - begin)
            if here:
                yield Stretch(shard, range(self.starts[shard] + here.start, self.starts[shard] + here.stop))

    def rows(self, stretches: Sequence[Stretch], epoch: int, window: int) -> list[int]:
        """The rows of a window as they are drawn."""
        numbers = np.concatenate([np.arange(one.rows.start, one.rows.stop) for one in stretches])
        drawn: list[int] = np.random.default_rng((self.seed, epoch, window, WINDOWS)).permutation(numbers).tolist()
        return drawn

    @cached_property
    def starts(self) -> list[int]:
        """The number of each shard's first row."""
        return [0, *accumulate(self.counts)][:-1]


def streamed(
    order: Order,
    batch: int,
    start: Position,
    bucket: Callable[[int], Hashable],
    begin: Callable[[Sequence[int]], object] = lambda _: None,
) -> Iterator[tuple[list[SampledRow], Position]]:
    """Endless updates of `batch` rows of one bucket from a position on, each with the position that follows it.

    bucket: of a row; begin: is told a window's shards before its rows are asked for.
    """
    waiting = Waiting(batch)
    for row in start.waiting:
        waiting.add(row, bucket(row.number))
    for epoch in count(start.epoch):
        first = start.window if epoch == start.epoch else 0
        for window, stretches in enumerate(order.windows(epoch, first), first):
            begin([one.shard for one in stretches])
            done = start.drawn if (epoch, window) == (start.epoch, start.window) else 0
            for drawn, number in enumerate(order.rows(stretches, epoch, window)[done:], done + 1):
                if update := waiting.add(SampledRow(number, epoch), bucket(number)):
                    yield update, Position(epoch, window, drawn, waiting.rows)
