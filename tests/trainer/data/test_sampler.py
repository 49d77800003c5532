"""Which rows make which update follows from the seed alone, however an update is shared."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.sampler import Chance, SampledRow, share, shuffled, updates


@given(
    rows=st.lists(st.sampled_from("abc"), min_size=1, max_size=40),
    batch=st.integers(1, 8),
    seed=st.integers(0, 3),
)
def test_every_row_is_drawn_equally_often(rows: list[str], batch: int, seed: int) -> None:
    """Updates hold one bucket; over many epochs no row is ahead of another by more than what waits: once an epoch."""
    drawn = [row for update in islice(updates(rows, batch, seed), 5 * len(rows)) for row in update]
    for update in islice(updates(rows, batch, seed), 10):
        assert len(update) == batch
        assert len({rows[row.number] for row in update}) == 1
    assert max(Counter(drawn).values()) == 1, "a row was drawn twice in an epoch"
    last = max(row.epoch for row in drawn)
    for bucket in set(rows):
        numbers = [number for number, name in enumerate(rows) if name == bucket]
        counts = Counter(row.number for row in drawn if rows[row.number] == bucket)
        missing = len(numbers) * (last + 1) - counts.total()
        assert missing < batch + 2 * len(numbers), "rows that wait are fewer than an update"


@pytest.mark.parametrize(("micro_batch", "processes"), [(8, 1), (4, 2), (2, 4), (2, 1), (1, 2)])
def test_an_update_is_the_same_however_it_is_shared(micro_batch: int, processes: int) -> None:
    """Passes and processes cut an update into parts: together they are it, in its order, none twice."""
    update = [SampledRow(row, 0) for row in range(8)]
    parts = [share(update, micro_batch, rank, processes) for rank in range(processes)]
    assert {len(part) for passes in parts for part in passes} == {micro_batch}
    together = [row for round_ in zip(*parts) for part in round_ for row in part]
    assert together == update


def test_seeds_and_epochs_shuffle_anew() -> None:
    """Each epoch has an order of its own, each seed another; the same seed the same."""
    rows = ["a"] * 32

    def order(seed: int) -> list[int]:
        return [row.number for update in islice(updates(rows, 8, seed), 8) for row in update]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)[:32]) == sorted(order(1)[32:]) == list(range(32))
    assert order(1)[:32] != order(1)[32:]


def test_what_is_drawn_for_a_row_does_not_depend_on_what_is_drawn_after_it() -> None:
    """A further draw changes none of those before it: runs go on as they were."""
    row = SampledRow(3, 5)
    chance = Chance.of(row, seed=7)
    expected = np.random.default_rng((7, 5, 3)).random(5).tolist()
    assert [chance.mirror, chance.drop, chance.caption, chance.top, chance.left] == expected


def test_tags_are_shuffled_and_the_first_stay() -> None:
    """Every order of the others is drawn, none is lost, and the same chance gives the same order."""
    tags = "a cat, red, big , soft"
    found = {shuffled(tags, 1, number / 100) for number in range(100)}
    assert len(found) == 6
    assert all(
        one.startswith("a cat, ") and sorted(one.split(", ")) == ["a cat", "big", "red", "soft"] for one in found
    )
    assert shuffled(tags, 1, 0.3) == shuffled(tags, 1, 0.3)
    assert shuffled(tags, 4, 0.3) == "a cat, red, big, soft"
    assert shuffled("one tag", 0, 0.3) == "one tag"
