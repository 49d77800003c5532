"""Tests for several processes, of which pytest-xdist gives each an equal part of one list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Test = TypeVar("Test")


def dealt(modules: Sequence[Sequence[Test]], processes: int) -> list[Test]:
    """The modules one by one to each process in turn, parts of equal length: what is too much for one fills up others."""
    hands = [[test for module in modules[first::processes] for test in module] for first in range(processes)]
    left, sizes = sum(map(len, hands)), []
    for number in range(processes):  # as `--dist worksteal` divides them
        sizes.append(left // (processes - number))
        left -= sizes[-1]
    spare = [test for hand, size in zip(hands, sizes) for test in hand[size:]]
    for hand, size in zip(hands, sizes):
        del hand[size:]
        missing = size - len(hand)
        hand += spare[:missing]
        del spare[:missing]
    return [test for hand in hands for test in hand]
