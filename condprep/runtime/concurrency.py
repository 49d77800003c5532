"""Generators that move pictures through threads: bounded, pulled by the consumer, in a fixed order."""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

from condprep.runtime.malloc import give_back_freed_memory

LARGE = 4  # such a part of the most that may be under way
T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    pool: Executor,
    function: Callable[[T], R],
    items: Iterable[T],
    ahead: int,
    weigh: Callable[[T], int] = lambda _: 0,
    most: int = 0,
) -> Iterator[R]:
    """`map` in the pool's threads: results in the order of the items, at most `ahead` of them under way.

    weigh, most: nor more than weigh that much together; an item that does by itself is alone. Before one that takes a large
    share of that, what the others have freed goes back to the kernel.
    """
    waiting: deque[tuple[int, Future[R]]] = deque()
    total = 0
    for item in items:
        weight = weigh(item)
        while waiting and total + weight > most:
            total -= waiting[0][0]
            yield waiting.popleft()[1].result()
        if weight > most // LARGE:
            give_back_freed_memory()
        waiting.append((weight, pool.submit(function, item)))
        total += weight
        if len(waiting) >= ahead:
            total -= waiting[0][0]
            yield waiting.popleft()[1].result()
    while waiting:
        yield waiting.popleft()[1].result()


def lots(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`; the last one may be shorter."""
    waiting = iter(items)
    while lot := list(islice(waiting, size)):
        yield lot


def group(
    items: Iterable[T],
    key: Callable[[T], Hashable | None],
    area: Callable[[T], int],
    full: int,
    pending: int,
    size: Callable[[T], int] | None = None,
) -> Iterator[list[T]]:
    """Groups of items with equal keys and areas.

    A group leaves when one more would exceed the area `full`, or as it is when more than `pending` has come since it was
    begun, so that no item waits for ever and what follows the one that waits longest is bounded. An item whose key is
    None does not wait: it leaves alone. size: what counts as having come; default: the area.
    """
    groups: dict[Hashable, list[T]] = {}  # in the order in which they were begun
    begun: dict[Hashable, int] = {}
    size, came = size or area, 0
    for item in items:
        name, before = key(item), came
        came += size(item)
        if name is None:
            yield [item]
        else:
            if name not in groups:
                groups[name], begun[name] = [], before
            groups[name].append(item)
            if area(item) * (len(groups[name]) + 1) > full:
                yield groups.pop(name)
        while groups and came - begun[first := next(iter(groups))] > pending:
            yield groups.pop(first)
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
