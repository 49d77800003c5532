"""A shift or a scale that all maps of a dataset share: too small for a row, it shows in the median over many."""

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
LEAST_SCALING = 0.0099  # difference from 1: right maps of five annotators and measured depth share none


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


class Sample:
    """The rows that were compared in one way. 12 bytes a row."""

    def __init__(self, first: int) -> None:
        self.first, self.least = first, 0.0
        self._lie = array("f")

    def add(self, x: float, y: float, scale: float, least: float) -> None:
        self._lie.extend((x, y, scale))
        self.least = max(self.least, least)

    def reason(self) -> str | None:
        """What the rows share, where the interval of its median lies beyond what can be chance or an annotator's nature."""
        lie = np.array(self._lie, np.float64).reshape(-1, 3)
        if len(lie) < FEWEST:
            return None
        across, down, scale = (median(values) for values in lie.T)
        over = f"over {len(lie):,} rows"
        told = []
        if any(_beyond(axis, 0, self.least) for axis in (across, down)):
            found = f"shifted by {_vector(across.value, down.value)} px, {_interval(across, down)} {over}"
            told.append(f"{found}: moved by {_vector(-across.value, -down.value)} px they would lie right")
        if _beyond(scale, 1, LEAST_SCALING):
            found = f"scaled by {scale.value:.4g} about their centre, 95 % interval of the median {scale.low:.4g} to {scale.high:.4g}"
            told.append(f"{found} {over}: scaled by {1 / scale.value:.3f} they would lie right")
        return f"the maps together are {'; and '.join(told)}" if told else None


class SharedShift:
    """Maps that are all shifted, or scaled, in the same way, as maps made again show it, or their pictures."""

    name: ClassVar[str] = "shared-shift"
    severity: ClassVar[Severity] = "error"

    def __init__(self) -> None:
        self._samples: dict[str, Sample] = {}
        self._rows = 0

    def add(self, scores: Scores) -> None:
        way, lean = scores["compared_with"], scores["lean"]
        if lean:
            self._of(way).add(lean.x, lean.y, lean.scale, lean.finest)
        elif way in LEAST and scores["alignment"] in ("aligned", "shifted"):
            self._of(way).add(scores["shift_x"], scores["shift_y"], 1.0, LEAST[way])
        self._rows += 1

    def finish(self) -> Iterator[tuple[int, str]]:
        """One finding for each way of comparing, at the first row that was compared so."""
        for sample in self._samples.values():
            if reason := sample.reason():
                yield sample.first, reason

    def _of(self, way: str) -> Sample:
        return self._samples.setdefault(way, Sample(self._rows))


def _beyond(found: Median, nothing: float, least: float) -> bool:
    """Whether the whole interval lies on one side of what is nothing, and as far from it."""
    low, high = found.low - nothing, found.high - nothing
    return min(abs(low), abs(high)) >= least and low * high > 0


def _vector(x: float, y: float) -> str:
    return f"({_signed(x)}, {_signed(y)})"


def _signed(pixels: float) -> str:
    tenths = round(pixels, 1)
    return f"{tenths:+g}" if tenths else "0"


def _interval(across: Median, down: Median) -> str:
    spans = [f"{_signed(axis.low)} to {_signed(axis.high)}" for axis in (across, down)]
    return f"95 % interval of the median {spans[0]} across and {spans[1]} down"
