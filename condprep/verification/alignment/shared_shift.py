"""A shift that all maps of a dataset share: too small for a row, it shows in the median over many."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from math import sqrt
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from condprep.verification.check import Scores, Severity

FEWEST = 20  # rows
NORMAL = 1.96  # standard deviations to each side that hold 95 %
LEAST = {
    "made again": 1,
    "own pixels": 1,
    "other poses": 3,
}  # pixels: two annotators mean other places by the same joint


class Median(NamedTuple):
    """Of a sample, with the interval that holds that of what it was drawn from in 95 of 100 samples."""

    value: float
    low: float
    high: float


def median(values: NDArray[np.floating]) -> Median:
    """By the order of the values alone, whatever their distribution. values: (N,), at least one.

    The number of values below the true median is binomial, about n / 2 with a deviation of sqrt(n) / 2.
    """
    ordered, count = np.sort(values), len(values)
    outside = max(int(count / 2 - NORMAL * sqrt(count) / 2), 0)
    return Median(float(np.median(ordered)), float(ordered[outside]), float(ordered[-1 - outside]))


class SharedShift:
    """Maps that are all shifted in the same way, as maps made again show it. 8 bytes a row."""

    name: ClassVar[str] = "shared-shift"
    severity: ClassVar[Severity] = "error"

    def __init__(self) -> None:
        self._shifts, self._least = array("i"), 0
        self._first, self._rows = 0, 0

    def add(self, scores: Scores) -> None:
        least = LEAST.get(scores["compared_with"])
        if least and scores["alignment"] in ("aligned", "shifted"):
            self._first = self._first if self._shifts else self._rows
            self._shifts.extend((scores["shift_x"], scores["shift_y"]))
            self._least = max(self._least, least)
        self._rows += 1

    def finish(self) -> Iterator[tuple[int, str]]:
        """One finding, at the first row that was compared, where the interval of an axis lies beyond what can be chance."""
        shifts = np.array(self._shifts, np.float64).reshape(-1, 2)
        if len(shifts) < FEWEST:
            return
        across, down = axes = median(shifts[:, 0]), median(shifts[:, 1])
        if any(min(abs(axis.low), abs(axis.high)) >= self._least and axis.low * axis.high > 0 for axis in axes):
            where = f"({_signed(across.value)}, {_signed(down.value)}) px"
            yield (
                self._first,
                f"the maps together are shifted by {where}, {_interval(across, down)} over {len(shifts):,} rows",
            )


def _signed(pixels: float) -> str:
    return f"{pixels:+g}" if pixels else "0"


def _interval(across: Median, down: Median) -> str:
    spans = [f"{_signed(axis.low)} to {_signed(axis.high)}" for axis in (across, down)]
    return f"95 % interval of the median {spans[0]} across and {spans[1]} down"
