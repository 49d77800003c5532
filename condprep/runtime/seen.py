"""Which of any number of names came before, in eight bytes each: a set of their hashes takes seventy.

Hashes of 64 bits are told apart, and not the names: of 100 million, two differ and are taken for one with a chance of 1 in 3,700.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

RECENT = 1 << 20  # in a set, until they are a run
LONGEST = 1 << 25  # of a run: to bring two together takes room for both once more


class Seen:
    """Recent hashes are in a set, and all others in sorted runs, a short one of which joins the one before it."""

    def __init__(self) -> None:
        self._recent = set[int]()
        self._runs: list[memoryview] = []

    def __contains__(self, name: str) -> bool:
        value = hash(name)
        return value in self._recent or any(_holds(run, value) for run in self._runs)

    def add(self, name: str) -> bool:
        """Whether it was not there before."""
        if name in self:
            return False
        self._recent.add(hash(name))
        if len(self._recent) >= RECENT:
            self._settle()
        return True

    def _settle(self) -> None:
        run = np.fromiter(self._recent, np.int64, len(self._recent))
        run.sort()
        self._recent.clear()
        while self._runs and len(self._runs[-1]) <= len(run) <= LONGEST // 2:
            run = np.concatenate([np.asarray(self._runs.pop()), run])
            run.sort(kind="stable")  # two runs in order, one behind the other, are merged
        self._runs.append(run.data)


def _holds(run: memoryview, value: int) -> bool:
    at = bisect_left(run, value)
    return at < len(run) and bool(run[at] == value)
