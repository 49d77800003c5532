"""Generators that move pictures through threads: bounded, pulled by the consumer, in a fixed order."""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")


def ordered_map(pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """`map` in the pool's threads: results in the order of the items, at most `ahead` of them under way."""
    for _, task in under_way(pool, function, ((None, item) for item in items), ahead):
        yield task.result()


def under_way(
    pool: Executor, function: Callable[[T], R], items: Iterable[tuple[K, T]], ahead: int
) -> Iterator[tuple[K, Future[R]]]:
    """The same, not waited for, each with the tag that its item came with."""
    waiting: deque[tuple[K, Future[R]]] = deque()
    for tag, item in items:
        waiting.append((tag, pool.submit(function, item)))
        if len(waiting) >= ahead:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def lots(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`; the last one may be shorter."""
    waiting = iter(items)
    while lot := list(islice(waiting, size)):
        yield lot


def group(
    items: Iterable[T], key: Callable[[T], Hashable | None], area: Callable[[T], int], full: int, pending: int
) -> Iterator[list[T]]:
    """Groups of items with equal keys.

    A group leaves when one more would exceed the area `full`; when more than `pending` area waits in all groups
    together, the one that was begun first leaves as it is. An item whose key is None does not wait: it leaves alone.
    """
    groups: dict[Hashable, list[T]] = {}  # in the order in which they were begun
    waiting = 0
    for item in items:
        name = key(item)
        if name is None:
            yield [item]
            continue
        groups.setdefault(name, []).append(item)
        waiting += area(item)
        ready = name if sum(map(area, groups[name])) + area(item) > full else None
        if ready is None and waiting > pending:
            ready = next(iter(groups))
        if ready is not None:
            leaving = groups.pop(ready)
            waiting -= sum(map(area, leaving))
            yield leaving
    yield from groups.values()


def in_order(items: Iterable[T], number: Callable[[T], int]) -> Iterator[T]:
    """Items numbered 0, 1, 2, ... in any order -> in that order; holds back those that came early."""
    early: list[tuple[int, T]] = []
    expected = 0
    for item in items:
        heapq.heappush(early, (number(item), item))
        while early and early[0][0] == expected:
            yield heapq.heappop(early)[1]
            expected += 1


def usable_cores() -> int:
    """The cores that this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
