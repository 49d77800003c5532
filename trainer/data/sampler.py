"""Which rows make which update, and what chance does to them: functions of the seed alone.

An update's rows share a bucket and do not depend on how many processes there are or how many rows fit into a forward
pass: one process with micro_batch 4 and two with 2 see the same rows in the same order. Rows that do not fill an update
of their bucket wait for those of the next epoch, so every row is seen equally often.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, count

import numpy as np


@dataclass(frozen=True, slots=True)
class SampledRow:
    """One row, chosen once."""

    number: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Chance:
    """What is drawn for a row, each uniform in [0, 1)."""

    mirror: float
    drop: float
    caption: float
    top: float
    left: float
    order: float
    conditions: float

    @classmethod
    def of(cls, row: SampledRow, seed: int) -> Chance:
        return cls(*np.random.default_rng((seed, row.epoch, row.number)).random(7).tolist())


class Waiting:
    """Rows that wait for others of their bucket, until they are an update of `batch` rows."""

    def __init__(self, batch: int) -> None:
        self._batch, self._queues = batch, dict[Hashable, list[SampledRow]]()

    def add(self, row: SampledRow, bucket: Hashable) -> list[SampledRow] | None:
        """The update that this row makes full; None where it waits."""
        queue = self._queues.setdefault(bucket, [])
        queue.append(row)
        return self._queues.pop(bucket) if len(queue) == self._batch else None

    @property
    def rows(self) -> tuple[SampledRow, ...]:
        """All that wait; those of a bucket as they came."""
        return tuple(row for queue in self._queues.values() for row in queue)


def updates(buckets: Sequence[Hashable], batch: int, seed: int) -> Iterator[list[SampledRow]]:
    """Endless lists of `batch` rows of one bucket. buckets: of each row; there is at least one."""
    waiting = Waiting(batch)
    for epoch in count():
        for row in np.random.default_rng((seed, epoch)).permutation(len(buckets)).tolist():
            if update := waiting.add(SampledRow(row, epoch), buckets[row]):
                yield update


def share(update: Sequence[SampledRow], micro_batch: int, rank: int, processes: int) -> list[Sequence[SampledRow]]:
    """The forward passes of one process: the update is cut into rounds, and each round into a part for each process."""
    together = micro_batch * processes
    starts = range(rank * micro_batch, len(update), together)
    return [update[start : start + micro_batch] for start in starts]


def given(kinds: int, at: float) -> tuple[int, ...]:
    """Which of so many conditions a row is given, by a draw, 0..1: one, two, ... or all, as likely each, and then any of so many; 1: all."""
    number = min(int(at * kinds), kinds - 1)
    sets = list(combinations(range(kinds), number + 1))
    return sets[min(int((at * kinds - number) * len(sets)), len(sets) - 1)]


def shuffled(caption: str, keep: int, order: float) -> str:
    """The tags of a caption, parted by commas, in an order that is drawn, 0..1; the first `keep` stay where they are."""
    tags = [tag.strip() for tag in caption.split(",")]
    rest = tags[keep:]
    random = np.random.default_rng(int(order * 2**53))
    return ", ".join([*tags[:keep], *(rest[n] for n in random.permutation(len(rest)))])
