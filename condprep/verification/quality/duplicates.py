"""Rows that show the same picture as an earlier row: exactly, nearly, or in another split of the dataset."""

from __future__ import annotations

import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from condprep.verification.check import Scores, Severity, Survey
from condprep.verification.quality.lookalikes import SIDE, Thumbnails, comparable, hashes, near_pairs, same_picture


@dataclass(frozen=True, slots=True)
class Repeat:
    """A row that repeats an earlier one."""

    row: int
    twin: int
    exact: bool  # every pixel is the same
    split: str | None  # of the twin, where it is another than the row's


class Lookalikes:
    """What is remembered of every row until all were seen: 12 bytes, and a thumbnail in a temporary file.

    The search takes 400 bytes a row.
    """

    def __init__(self) -> None:
        self._pixels, self._splits = array("Q"), array("i")
        self._numbers: dict[str | None, int] = {}  # of the splits
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the survey
        weakref.finalize(self, self._file.close)

    def add(self, scores: Scores) -> None:
        self._splits.append(self._numbers.setdefault(scores["split"], len(self._numbers)))
        self._pixels.append(scores["pixels"] or 0)
        self._file.write(scores["thumbnail"] or bytes(SIDE * SIDE))

    @cached_property
    def repeats(self) -> Sequence[Repeat]:
        """By row: the first row of the same pixels; of a row without one the first of its split that it nearly repeats, and
        the first of another split.
        """
        exact = self._exact()
        taken = {row for row, _ in exact}
        near = [] if len(self._pixels) < 2 else _leaders(self._near(taken), np.frombuffer(self._splits, np.int32))
        found = [self._repeat(row, twin, True) for row, twin in exact]
        found += [self._repeat(row, twin, False) for row, twin in near]
        return sorted(found, key=lambda one: (one.row, one.split is not None))

    def _repeat(self, row: int, twin: int, exact: bool) -> Repeat:
        elsewhere = self._splits[row] != self._splits[twin]
        return Repeat(row, twin, exact, (list(self._numbers)[self._splits[twin]] or "") if elsewhere else None)

    def _exact(self) -> list[tuple[int, int]]:
        """(row, first row of the same pixels)."""
        pixels = np.frombuffer(self._pixels, np.uint64)
        _, first, group = np.unique(pixels, return_index=True, return_inverse=True)
        twins = first[group]
        again = np.flatnonzero((twins < np.arange(len(pixels))) & (pixels != 0))
        return list(zip(again.tolist(), twins[again].tolist()))

    def _near(self, besides: set[int]) -> NDArray[np.int64]:
        """(M, 2) rows that show nearly the same picture, the earlier first; by the later, then by the earlier."""
        self._file.flush()
        thumbnails: Thumbnails = np.memmap(self._file, np.uint8, "r").reshape(-1, SIDE, SIDE)
        wanted = comparable(thumbnails)
        wanted[list(besides)] = False
        rows = np.flatnonzero(wanted)
        pairs = near_pairs(hashes(thumbnails, rows))
        pairs[:, :2] = rows[pairs[:, :2]]
        found = np.sort(pairs[same_picture(thumbnails, pairs), :2], axis=1)
        return np.unique(found[:, ::-1], axis=0)[:, ::-1]


def _leaders(pairs: NDArray[np.int64], splits: NDArray[np.int32]) -> list[tuple[int, int]]:
    """(row, the first row of its split that it repeats and that repeats none there itself), (row, first one of another split).

    So a row that is left out looks like one that stays, and a slow pan is not one picture. Of another split any row
    counts: it is in the way of a fair validation whether it repeats or not.
    """
    here: dict[int, int] = {}
    elsewhere: dict[int, int] = {}
    for earlier, row in pairs.tolist():
        if splits[earlier] != splits[row]:
            elsewhere.setdefault(row, earlier)
        elif earlier not in here:
            here.setdefault(row, earlier)
    return [*here.items(), *elsewhere.items()]


class _OfLookalikes:
    """What the surveys of lookalikes share: one collection, into which one of them puts the rows."""

    def __init__(self, seen: Lookalikes) -> None:
        self._seen = seen

    def add(self, scores: Scores) -> None:
        """`Duplicate` adds the row."""


class Duplicate(_OfLookalikes):
    """Rows of which every pixel is that of an earlier row, of whichever split."""

    name: ClassVar[str] = "duplicate"
    severity: ClassVar[Severity] = "warning"

    def add(self, scores: Scores) -> None:
        self._seen.add(scores)

    def finish(self) -> Iterator[tuple[int, str, int]]:
        for one in self._seen.repeats:
            if one.exact:
                yield one.row, f"the picture is that of row {one.twin}, pixel by pixel", one.twin


class NearDuplicate(_OfLookalikes):
    """Rows that show what an earlier row of their split shows: cropped, compressed, lighter or darker."""

    name: ClassVar[str] = "near-duplicate"
    severity: ClassVar[Severity] = "warning"

    def finish(self) -> Iterator[tuple[int, str, int]]:
        for one in self._seen.repeats:
            if not one.exact and one.split is None:
                yield one.row, f"the picture is nearly that of row {one.twin}", one.twin


class Leak(_OfLookalikes):
    """Rows that show what a row of another split shows, exactly or nearly."""

    name: ClassVar[str] = "leak"
    severity: ClassVar[Severity] = "warning"

    def finish(self) -> Iterator[tuple[int, str, int]]:
        for one in self._seen.repeats:
            if one.split is not None:
                how = "" if one.exact else "nearly "
                yield one.row, f"the picture is {how}that of row {one.twin}, which is in {one.split!r}", one.twin


def surveys() -> Sequence[Survey]:
    """Fresh ones, which look for lookalikes once."""
    seen = Lookalikes()
    return (Duplicate(seen), NearDuplicate(seen), Leak(seen))
