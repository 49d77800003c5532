"""Are the columns of a dataset out of step: is row 900's map that of picture 901, and so on to the end?

Each picture and each map becomes 512 bytes: the edge field of `registration` averaged over 16 x 16 cells. While the rows
pass, each map is held against the pictures of the rows around it, and only 2 * reach + 1 scores a row are kept. At the end
the most likely course of the offset through all rows is found (Viterbi), where changing it has a price: a single row that
resembles its neighbour is no change, a dozen are.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np
from numpy.typing import NDArray

from condprep.images.decode import Pixels
from condprep.verification.alignment.comparison import LINE_KINDS
from condprep.verification.alignment.registration import lines, resized, steps

CELLS = 16  # per side
SIDE = 64  # pixels at which the field is made
CHANGE = 20.0  # price of another offset: what about five rows that fit well are worth
STRAY = 2.0  # worth of a row whose map fits none of the pictures around it, in units of noise
STEADY = 0.5  # bonus of no offset: neighbours that look alike (frames of a film) prove nothing

Descriptor = NDArray[np.int8]  # (512,)
NOTHING: Descriptor = np.zeros(2 * CELLS * CELLS, np.int8)


@dataclass(frozen=True, slots=True)
class OffsetRun:
    """Rows first..last (inclusive) whose maps belong to the pictures `offset` rows later; None: to none nearby."""

    first: int
    last: int
    offset: int | None

    def reason(self, rows: int) -> str:
        """The sentence for a dataset of that many rows; "" where nothing is wrong."""
        where = f"from row {self.first}" if self.last == rows - 1 else f"from row {self.first} to {self.last}"
        if self.offset == 0:
            return ""
        if self.offset is None:
            return f"condition and image columns do not belong together {where}"
        by = "one" if abs(self.offset) == 1 else str(abs(self.offset))
        side = "after" if self.offset > 0 else "before"
        return f"condition and image columns off by {by} {where}: each map belongs to the picture {by} {side} it"


def describe(picture: Pixels, kind: str = "picture") -> Descriptor:
    """A picture or a map (H, W[, C]) uint8 -> (512,) int8. kind: that of a map ("canny", ...), or "picture".

    Whatever its shape, it is brought to a square, so pictures of different shapes can be compared.
    """
    field = (lines if kind in LINE_KINDS else steps)(resized(picture, SIDE, SIDE))
    parts = np.stack([field.real, field.imag], -1)
    cells = cv2.resize(parts, (CELLS, CELLS), interpolation=cv2.INTER_AREA).ravel()
    loudest = float(np.abs(cells).max())
    return np.asarray(np.round(cells * (127 / loudest if loudest else 0)), np.int8)


class Offsets:
    """Takes rows in order, then tells which runs of them are out of step. Keeps 4 * (2 * reach + 1) bytes a row."""

    def __init__(self, reach: int = 3) -> None:
        """reach: the largest offset that is looked for, rows."""
        self.reach = reach
        self._pictures: deque[NDArray[np.float32]] = deque(maxlen=2 * reach + 1)
        self._maps: deque[NDArray[np.float32]] = deque(maxlen=reach + 1)
        self._scores = array("f")

    def add(self, picture: Descriptor | None, stored: Descriptor | None) -> None:
        """The next row: descriptors of its picture and its map; None for what says nothing."""
        self._pictures.append(_unit(NOTHING if picture is None else picture))
        self._maps.append(_unit(NOTHING if stored is None else stored))
        if len(self._maps) > self.reach:
            self._scores.frombytes(self._around(self._maps[0], len(self._pictures) - 1 - self.reach).tobytes())

    def runs(self) -> list[OffsetRun]:
        """All rows so far as runs of equal offset, in order."""
        pending = list(self._maps)[-self.reach :] if len(self._maps) > self.reach else list(self._maps)
        last = len(self._pictures) - 1
        tail = [self._around(stored, last - back) for back, stored in zip(range(len(pending) - 1, -1, -1), pending)]
        scores = np.concatenate([np.array(self._scores, np.float32), *tail]).reshape(-1, 2 * self.reach + 1)
        return _runs(_course(_worth(scores)), self.reach)

    def _around(self, stored: NDArray[np.float32], at: int) -> NDArray[np.float32]:
        """The map of the row whose picture is at `at` in the window against all pictures within reach; 0 past an end."""
        places = range(at - self.reach, at + self.reach + 1)
        inside = [0 <= place < len(self._pictures) for place in places]
        return np.array([stored @ self._pictures[p] if ok else 0 for p, ok in zip(places, inside)], np.float32)


def _unit(descriptor: Descriptor) -> NDArray[np.float32]:
    values = descriptor.astype(np.float32)
    return values / max(float(np.linalg.norm(values)), 1e-6)


def _worth(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, K) cosines -> (N, K + 1) in units of noise; the last column is a map that belongs to none.

    The noise of two pictures that have nothing in common is 1 / sqrt(CELLS * CELLS) for the cosine of as many independent
    cells; neighbouring cells are not, which is why STRAY is not lower. A map without edges says nothing: all zero.
    """
    worth = scores * CELLS
    worth[:, scores.shape[1] // 2] += STEADY
    stray = np.where(np.any(scores, axis=1), STRAY, 0)[:, None]
    return np.hstack([worth, stray]).astype(np.float32)


def _course(worth: NDArray[np.float32]) -> NDArray[np.intp]:
    """(N, K) -> the state of each row whose total worth, less CHANGE for every change of state, is largest."""
    best = np.zeros(worth.shape[1], np.float64)
    came: NDArray[np.int8] = np.empty(worth.shape, np.int8)
    stay = np.arange(worth.shape[1])
    for row, gain in enumerate(worth):
        leader = int(best.argmax())
        changed = best < best[leader] - CHANGE
        came[row] = np.where(changed, leader, stay)
        best = np.where(changed, best[leader] - CHANGE, best) + gain
    course = np.empty(len(worth), np.intp)
    state = int(best.argmax())
    for row in range(len(worth) - 1, -1, -1):
        course[row] = state
        state = int(came[row, state])
    return course


def _runs(course: NDArray[np.intp], reach: int) -> list[OffsetRun]:
    runs, first = [], 0
    for state, rows in groupby(course.tolist()):
        last = first + len(list(rows)) - 1
        runs.append(OffsetRun(first, last, None if state == 2 * reach + 1 else state - reach))
        first = last + 1
    return runs
