"""When finished rows of a shard under way are kept, and what a shard that goes on has to do once more.

A segment is written where SECONDS have passed or LOT_ROWS or LOT_BYTES are together; of a QUICK shard, none.
It ends where a batch does, if that is soon: then nothing is done twice.

Networks look at batches, and may round a little differently in another batch. So a shard that goes on has to make the batches of one that never stopped:
inputs whose rows are kept and that share a batch with later ones are seen once more, and what came between them counts as having come.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pyarrow as pa

from condprep.building.plan import Plan
from condprep.dataset.layout import Layout
from condprep.dataset.segments import Again, Segments
from condprep.dataset.shards import Row
from condprep.types import Reject

SECONDS = 20.0  # of work until a segment is due; then it waits as long for the end of a batch
QUICK = 40.0  # seconds; a shard that takes less is not worth it
LOT_ROWS, LOT_BYTES = 100, 32_000_000  # that are held until then; the bytes of twice as many at most
APART = 1.0  # seconds at least between two segments, where it is not for their bytes


@dataclass(slots=True)
class Turn:
    """Where an input stands in its shard, and what is known of the batch that it is in once that is complete."""

    place: int = 0
    again: int | None = None  # its row is kept; bytes that count as having come with it
    before: int = 0  # bytes that had come when it came
    after: int = 0
    settled: int = 0  # place of the input with which its batch was complete

    @classmethod
    def alone(cls, place: int) -> Turn:
        """Of an input that waits for no other."""
        return cls(place, settled=place)


class Pace:
    """How fast rows come, over all shards of a run, and when some were last kept."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = self._kept = clock()
        self._rows = 0

    def add(self, outcome: Row | Reject) -> None:
        self._rows += isinstance(outcome, Row)

    def kept(self) -> None:
        """Now: by a segment, or by a shard that was committed."""
        self._kept = self._clock()

    def since(self) -> float:
        """Seconds that would be lost now."""
        return self._clock() - self._kept

    def is_quick(self, inputs: int) -> bool:
        """Whether a shard of so many takes so little time that it may be lost."""
        return inputs * (self._clock() - self._began) < QUICK * self._rows


@dataclass(frozen=True)
class Lot:
    """What is not kept yet: outcomes of the inputs from `first` on."""

    first: int
    outcomes: list[Row | Reject] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.first + len(self.outcomes)

    def up_to(self, end: int) -> Lot:
        return Lot(self.first, self.outcomes[: end - self.first])


class Keeper:
    """Keeps finished rows of one shard, as they come. An exception may come at any moment: the lot is replaced as a whole."""

    def __init__(self, segments: Segments | None, schema: pa.Schema, first: int, pace: Pace) -> None:
        """segments: None where nothing is kept. first: of the inputs that are not kept yet."""
        self._segments, self._schema, self._pace = segments, schema, pace
        self._lot, self._bytes, self._is_long = Lot(first), 0, False
        self._due: float | None = None  # seconds after which a segment was due
        self._turns: list[Turn] = []  # of what is in the lot, and of what is kept and shares batches with it
        self._settled = -1  # the last input that shares a batch with one of those so far

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stopped by a signal, the shard goes on from here; after a fault from what was kept before."""
        if kind and not issubclass(kind, Exception):
            self._keep()

    def add(self, turn: Turn, outcome: Row | Reject) -> None:
        """What became of the next input, or of one that is done once more."""
        if not self._segments:
            return
        self._turns.append(turn)
        self._settled = max(self._settled, turn.settled)
        if turn.again is not None:
            return
        self._pace.add(outcome)
        self._lot.outcomes.append(outcome)
        self._bytes += outcome.size if isinstance(outcome, Row) else 0
        if self._lot.end < self._segments.rows and self._is_due():
            self._keep()

    def _is_due(self) -> bool:
        """Whether it is time, and either nothing in the lot shares a batch with what is to come, or that has lasted too long."""
        seconds, many = self._pace.since(), len(self._lot.outcomes) >= LOT_ROWS
        if (many or self._bytes >= LOT_BYTES) and not self._is_long and not self._is_long_enough():
            return False
        if seconds < SECONDS and self._bytes < LOT_BYTES and not (many and seconds >= APART):
            return False
        if self._due is None:
            self._due = seconds
        late = seconds >= self._due + SECONDS or self._bytes >= 2 * LOT_BYTES
        return late or self._settled < self._lot.end

    def _is_long_enough(self) -> bool:
        """Whether it pays to keep rows of this shard; decided once, before so much is held that it matters."""
        assert self._segments
        self._is_long = not self._pace.is_quick(self._segments.rows)
        if not self._is_long:
            self._let_go()
        return self._is_long

    def _let_go(self) -> None:
        self._segments, self._turns = None, []
        self._lot = Lot(self._lot.end)

    def _keep(self) -> None:
        if not self._segments:
            return
        lot = self._lot.up_to(self._segments.rows - 1)
        if not lot.outcomes:
            return
        shared = [turn for turn in self._turns if turn.place < lot.end <= turn.settled]
        try:
            self._segments.write(lot.first, lot.outcomes, self._again(shared, lot.end), self._schema)
        except OSError as error:  # rows are kept for the sake of those who are stopped: others go on without
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._segments.remove()
            self._let_go()
            return
        self._lot, self._turns, self._bytes, self._due = Lot(lot.end), shared, 0, None
        self._pace.kept()

    def _again(self, shared: Sequence[Turn], end: int) -> list[Again]:
        """What is to be seen once more, with what came between."""
        if not shared:
            return []
        came = next(turn.after for turn in reversed(self._turns) if turn.place == end - 1)
        before = [*(turn.before for turn in shared), came]
        return [Again(turn.place, after - at) for turn, (at, after) in zip(shared, pairwise(before))]


def segments_of(layout: Layout, plan: Plan, shard: int, plan_id: str) -> Segments:
    return Segments(layout.segments(shard), plan_id, plan.rows(shard))


def kept_of(layout: Layout, plan: Plan, pending: Collection[int]) -> int:
    """How many inputs of shards that are not committed are kept."""
    begun = set(layout.begun()).intersection(pending)
    return sum(segments_of(layout, plan, shard, plan.id).look().end for shard in sorted(begun))


def kept_pictures(layout: Layout) -> tuple[int, int] | None:
    """How many inputs of how many a build that is run again need not do again; None where it was not even planned."""
    plan = Plan.load(layout.private)
    if plan is None:
        return None
    missing = [] if layout.done.exists() else layout.missing(plan.shards)
    return plan.inputs - sum(map(plan.rows, missing)) + kept_of(layout, plan, missing), plan.inputs
