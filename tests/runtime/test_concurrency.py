"""The generators between the threads: order, bounds, and groups that only depend on the input."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condprep.runtime.concurrency import group, in_order, ordered_map


def test_ordered_map_keeps_the_order_and_its_bound() -> None:
    """Results come in the order of the items although threads finish in another, with at most `ahead` taken in advance."""
    taken, given_back, most = 0, 0, 0
    lock = threading.Lock()

    def items() -> object:
        nonlocal taken, most
        for i in range(60):
            with lock:
                taken += 1
                most = max(most, taken - given_back)
            yield i

    def work(i: int) -> int:
        time.sleep(random.Random(i).random() / 500)
        return i

    with ThreadPoolExecutor(4) as pool:
        results = []
        for result in ordered_map(pool, work, items(), 7):  # type: ignore[arg-type]
            results.append(result)
            given_back += 1
    assert results == list(range(60))
    assert most <= 8


def test_ordered_map_raises_where_the_work_failed() -> None:
    """The results before a failure come out, then its exception."""
    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, lambda i: 1 // (3 - i), range(6), 4)
        assert [next(results) for _ in range(3)] == [0, 0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)


@given(st.lists(st.sampled_from([1, 2, 5, 9]) | st.none()), st.integers(9, 30), st.integers(30, 90))
def test_groups_lose_nothing_and_stay_within_their_bounds(areas: list[int | None], full: int, pending: int) -> None:
    """Every item leaves once, in its key's order, in a group of one key whose area is within `full`."""
    numbered = list(enumerate(areas))
    groups = list(group(numbered, lambda item: item[1], lambda item: item[1] or 0, full, pending))
    assert sorted(item[0] for one in groups for item in one) == list(range(len(areas)))
    for one in groups:
        assert len({area for _, area in one}) == 1
        assert one == sorted(one)
        assert sum(area or 0 for _, area in one) <= full
        assert one[0][1] or len(one) == 1


def test_a_rare_shape_does_not_wait_for_ever() -> None:
    """When more than `pending` waits, the group that was begun first leaves as it is."""
    items = ["rare", *"abcdefgh"]
    groups = group(items, lambda item: item, lambda item: 1, full=4, pending=3)
    assert next(groups) == ["rare"]


@given(st.permutations(range(30)))
def test_in_order_restores_the_order(numbers: list[int]) -> None:
    """Any permutation of 0..n-1 comes out sorted."""
    assert list(in_order(numbers, lambda number: number)) == list(range(30))
