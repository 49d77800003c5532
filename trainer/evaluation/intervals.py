"""Means over rows, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over rows and its percentile bootstrap interval: where 95 % of such means lie when rows are drawn anew."""

    mean: float
    low: float
    high: float
    rows: int

    def __str__(self) -> str:
        digits = 1 if abs(self.mean) >= 10 else 3
        return f"{self.mean:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def interval(values: ArrayLike, seed: int = 0) -> Interval:
    """Of one value for each row, (N,); NaN is a row without a value. The same for the same values and seed.

    Without a value all is NaN.
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return Interval(np.nan, np.nan, np.nan, 0)
    low, high = _limits(known[resampled_rows(len(known), seed)].mean(1))
    return Interval(float(known.mean()), low, high, len(known))


def interval_of(statistic: Callable[[Sequence[int] | None], float], rows: int, seed: int = 0) -> Interval:
    """Of a statistic that is no mean. statistic: of the rows of these numbers, some of them repeated; None: of all."""
    found = np.array([statistic(numbers.tolist()) for numbers in resampled_rows(rows, seed, RESAMPLES // 5)])
    found = found[~np.isnan(found)]
    low, high = _limits(found) if len(found) else (np.nan, np.nan)
    return Interval(statistic(None), low, high, rows)


def resampled_rows(rows: int, seed: int, resamples: int = RESAMPLES) -> NDArray[np.int64]:
    """(resamples, rows): numbers of rows, drawn with replacement."""
    return np.random.default_rng(seed).integers(0, rows, (resamples, rows))


def _limits(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
