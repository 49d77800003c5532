"""The order of streamed rows follows from seed and pass alone: every row once a pass, from any row on, however it is shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.order import Order, Position, streamed
from trainer.data.sampler import SampledRow, share, updates

SHARDS = [7, 5, 11, 3, 9, 6, 8, 10, 4, 7, 5, 11, 3, 9, 6, 8, 10, 4, 12, 2]  # rows of each: 140
ROWS = sum(SHARDS)
START = Position()
BUCKETS = ["wide" if number % 3 else "high" for number in range(ROWS)]


def passes(seed: int, count: int, batch: int = 6, start: Position = START) -> list[tuple[list[SampledRow], Position]]:
    """The updates of the first passes."""
    found = streamed(Order(SHARDS, 32, seed), batch, start, BUCKETS.__getitem__)
    return list(takewhile(lambda one: one[1].epoch < count, found))


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    window=st.integers(1, 20),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_a_pass_has_every_row_once(counts: list[int], window: int, seed: int, epoch: int) -> None:
    """Whatever the shards: windows are no longer than they may be, and a window's rows are those of its stretches."""
    order, drawn = Order(counts, window, seed), list[int]()
    for number, stretches in enumerate(order.windows(epoch)):
        rows = order.rows(stretches, epoch, number)
        assert len(rows) == sum(len(one.rows) for one in stretches) <= window
        for one in stretches:
            start = sum(counts[: one.shard])
            assert set(one.rows) <= set(range(start, start + counts[one.shard]))
        assert next(order.windows(epoch, number)) == stretches, "a window is found without those before it"
        drawn += rows
    assert sorted(drawn) == list(range(sum(counts)))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("resumed_at", [0, 5, 11, 30])
def test_two_passes_are_those_of_one_process_without_streaming(processes: int, resumed_at: int) -> None:
    """20 shards, 1 to 3 processes, and a resume in the middle: what was drawn and what waits is every row twice, as without streaming."""
    seen, at = list[SampledRow](), Position()
    for update, position in passes(0, 2)[:resumed_at]:
        seen += update
        at = position
    at = Position.read(at.written())
    rest = passes(0, 2, start=at)
    for update, _ in rest:
        parts = [share(update, 6 // processes, rank, processes) for rank in range(processes)]
        assert len({len(part) for part in parts}) == 1
        assert len({BUCKETS[row.number] for row in update}) == 1, "an update has one bucket"
        seen += [row for rounds in zip(*parts) for part in rounds for row in part]
    waiting = rest[-1][1].waiting
    drawn = [(row.number, row.epoch) for row in (*seen, *waiting)]
    assert sorted(drawn) == sorted((number, epoch) for number in range(ROWS) for epoch in range(2))
    assert seen == [row for update, _ in passes(0, 2) for row in update], "rows come in one order, whoever resumes"
    without = islice(updates(BUCKETS, 6, 0), len(seen) // 6)
    assert Counter(row.number for row in seen).total() == sum(map(len, without))
    assert max(Counter(row.number for row in seen).values()) == 2


def test_seeds_and_passes_have_orders_of_their_own() -> None:
    """The same seed gives the same order; another seed or pass another order of shards and of rows."""

    def drawn(seed: int, epoch: int) -> tuple[list[int], list[int]]:
        order = Order(SHARDS, 32, seed)
        windows = [*order.windows(epoch)]
        shards = [one.shard for stretches in windows for one in stretches]
        return list(dict.fromkeys(shards)), [n for w, some in enumerate(windows) for n in order.rows(some, epoch, w)]

    assert drawn(1, 0) == drawn(1, 0)
    for shards, rows in (drawn(2, 0), drawn(1, 1)):
        assert shards != drawn(1, 0)[0]
        assert rows != drawn(1, 0)[1]
    shards, rows = drawn(1, 0)
    assert sorted(shards) == list(range(len(SHARDS))) != shards
    assert rows != sorted(rows)


def test_windows_of_one_large_shard_begin_elsewhere_in_each_pass() -> None:
    """Rows that never shared a window in one pass do in another."""
    first = {next(iter(Order([100], 10, 0).windows(epoch)))[0].rows for epoch in range(8)}
    assert len(first) > 2


def test_a_window_needs_no_more_shards_than_it_covers() -> None:
    """Its shards are named before a row of it is asked for, and no others are asked for but by rows that waited."""
    open_now, starts = list[int](), Order(SHARDS, 32, 0).starts
    asked = list[bool]()

    def bucket(number: int) -> str:
        asked.append(max(shard for shard, start in enumerate(starts) if start <= number) in open_now)
        return "one"

    def begin(shards: Sequence[int]) -> None:
        open_now[:] = shards

    for _ in islice(streamed(Order(SHARDS, 32, 0), 4, Position(), bucket, begin), 60):
        assert len(open_now) < len(SHARDS)
    assert all(asked)
