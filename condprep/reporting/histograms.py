"""How sizes, aspects, edges, people and captions are distributed: counts over all rows, a pass over the scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

MOST_SIZES = 10  # that are told apart
BINS = 20
ASPECTS = (0, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 0.99, 1.01, 4 / 3, 3 / 2, 2, 3, np.inf)
ASPECT_NAMES = (
    *("taller than 1:3", "1:3 to 1:2", "1:2 to 2:3", "2:3 to 3:4", "3:4 to 1:1", "square"),
    *("1:1 to 4:3", "4:3 to 3:2", "3:2 to 2:1", "2:1 to 3:1", "wider than 3:1"),
)


@dataclass(frozen=True)
class Bar:
    """One bar: what it stands for and how many rows."""

    name: str
    rows: int


@dataclass(frozen=True)
class Histogram:
    """Counts of rows. Named bars stand one below the other, those of a scale side by side."""

    title: str
    bars: Sequence[Bar]
    scale: bool  # whether the bars are the equal steps of a number
    note: str = ""

    @property
    def most(self) -> int:
        return max(bar.rows for bar in self.bars)


def histograms(scores: Path, people: Counter[int] | None) -> list[Histogram]:
    """Those that the scores (verify.parquet) tell. people: people in a picture -> rows, where the dataset knows."""
    with pq.ParquetFile(scores) as file:
        known = file.schema_arrow.names
        table = file.read(columns=[name for name in (*_SIZE, *_SCALES) if name in known])
    columns = {name: _numbers(table.column(name)) for name in table.column_names}
    found = _shapes(*(columns[name] for name in _SIZE)) if columns.keys() >= set(_SIZE) else []
    found += [_scale(columns[name], *named) for name, named in _SCALES.items() if name in columns]
    if people:
        found.append(Histogram("People in a picture", [Bar(str(n), people[n]) for n in sorted(people)], False))
    return [one for one in found if one.bars]


_SIZE = ("image_width", "image_height")
_SCALES = {
    "drawn": ("Edge density", "share of a map of lines that is drawn"),
    "tokens": ("Caption length", "tokens of CLIP, start and end included; what follows 77 is cut off"),
}


def _numbers(column: object) -> np.ndarray:
    return column.to_numpy().astype(np.float64)  # type: ignore[attr-defined,no-any-return]  # nulls become NaN


def _shapes(width: np.ndarray, height: np.ndarray) -> list[Histogram]:
    there = ~np.isnan(width) & ~np.isnan(height)
    return [_sizes(width[there], height[there]), _aspects(width[there] / height[there])]


def _sizes(width: np.ndarray, height: np.ndarray) -> Histogram:
    """The most frequent sizes, and how many rows have any other."""
    sizes, rows = np.unique(width.astype(np.int64) << 32 | height.astype(np.int64), return_counts=True)
    counts = Counter(dict(zip(sizes.tolist(), rows.tolist()))).most_common()
    bars = [Bar(f"{size >> 32} × {size & 0xFFFFFFFF}", n) for size, n in counts[:MOST_SIZES]]
    if others := counts[MOST_SIZES:]:
        bars.append(Bar(f"{len(others):,} other sizes", sum(n for _, n in others)))
    return Histogram("Size", bars, False, "width × height in pixels")


def _aspects(aspect: np.ndarray) -> Histogram:
    """Empty classes at both ends are left out."""
    rows = np.histogram(aspect, ASPECTS)[0]
    used = np.flatnonzero(rows)
    between = slice(used[0], used[-1] + 1) if len(used) else slice(0)
    return Histogram("Aspect", [Bar(*bar) for bar in zip(ASPECT_NAMES[between], rows[between].tolist())], False)


def _scale(values: np.ndarray, title: str, note: str) -> Histogram:
    """Equal steps from the least to the most; of whole numbers, whole steps."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Histogram(title, [], True, note)
    low, high = float(values.min()), float(values.max())
    whole = bool((values == np.round(values)).all())
    step = max(1.0, np.ceil((high - low + 1) / BINS)) if whole else (high - low) / BINS or 1.0
    edges = low + step * np.arange(int(np.ceil((high - low + whole) / step)) + 1 if high > low else 2)
    rows = np.histogram(np.minimum(values, edges[-1]), edges)[0]
    names = [_range(a, b, whole) for a, b in pairwise(edges)]
    return Histogram(title, [Bar(*bar) for bar in zip(names, rows.tolist())], True, note)


def _range(low: float, high: float, whole: bool) -> str:
    if whole:
        return f"{low:.0f}" if high - low <= 1 else f"{low:.0f} to {high - 1:.0f}"
    return f"{low:.3g} to {high:.3g}"
