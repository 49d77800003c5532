"""A picture and its condition map at a working size: how well the map fits, turned, scaled and shifted in any way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from condprep.images.decode import Pixels
from condprep.verification.alignment.registration import (
    FLIPS,
    TURNS,
    UPRIGHT,
    Field,
    Orientation,
    Tensor,
    correlation,
    edge_share,
    fast_shape,
    peak,
    resized,
    score_here,
    spectrum,
    steps,
    steps_of,
    tensor,
    unscaled,
)
from condprep.verification.alignment.stretching import REACH, SLACK, Blocks, Stretch, blocks, stretch

SPARSE = 0.002  # share of edge pixels below which there is nothing to compare
SHAPE = 1.1  # how many times wider, for its height, a map may be than its picture, or narrower, to be compared at all


@dataclass(frozen=True)
class Fit:
    """One way in which the stored map may lie on the picture, and how well that fits. Shifts in full pixels."""

    score: float
    shift: tuple[float, float] = (0, 0)
    orientation: Orientation = UPRIGHT
    scale: float = 1.0

    @property
    def distance(self) -> float:
        """The larger part of the shift."""
        return max(map(abs, self.shift))

    @property
    def near(self) -> bool:
        """Whether the map is upright, and hardly scaled."""
        return self.orientation == UPRIGHT and abs(self.scale - 1) <= REACH


@dataclass(frozen=True)
class MultiscalePair:
    """A picture, a map, and how the map becomes a field."""

    picture: Pixels
    stored: Pixels
    field: Callable[[Pixels], Field] = steps

    @property
    def lies(self) -> bool:
        """Whether the map has the picture's size on its side, so that it can only be turned."""
        height, width = self.picture.shape[:2]
        return height != width and self.stored.shape[:2] == (width, height)

    @property
    def orientations(self) -> Sequence[Orientation]:
        """Those in which the map would have the size it has."""
        height, width = self.picture.shape[:2]
        return (*FLIPS, *TURNS) if height == width else TURNS if self.lies else FLIPS

    @property
    def sized(self) -> Pixels:
        """The map in the size of its picture, unless it lies on its side."""
        return self.stored if self.lies else resized(self.stored, *self.picture.shape[:2])

    @property
    def alike(self) -> bool:
        """Whether both have about the same shape, on its side perhaps: a map that was squeezed fits nothing."""
        height, width = self.picture.shape[:2]
        tall, wide = self.stored.shape[:2][:: -1 if self.lies else 1]
        return bool(1 / SHAPE <= width * tall / (height * wide) <= SHAPE)

    def at(self, side: int) -> View:
        return View(self, side)


class View:
    """A picture and a map at one working size, and their correlations."""

    def __init__(self, pair: MultiscalePair, side: int) -> None:
        height, width = pair.picture.shape[:2]
        self.ratio = max(1.0, max(height, width) / side)
        size = max(1, round(height / self.ratio)), max(1, round(width / self.ratio))
        self.picture = resized(pair.picture, *size)
        self.stored = resized(pair.stored, *(size[::-1] if pair.lies else size))
        self.pair, self._shape = pair, fast_shape(size)

    def drawn(self, field: Callable[[Pixels], Field]) -> View:
        """The same look, where the map becomes a field in another way."""
        assert len(self._ground)  # of the picture, which both have
        other = copy(self)
        other.pair = replace(self.pair, field=field)
        for name in ("_edges", "_spectrum", "_as_it_is", "stretch"):
            other.__dict__.pop(name, None)
        return other

    @cached_property
    def _gradients(self) -> Tensor:
        return tensor(self.picture)

    @cached_property
    def _target(self) -> Field:
        return spectrum(steps_of(self._gradients), self._shape)

    @cached_property
    def _ground(self) -> Blocks:
        return blocks(self._target, self.picture.shape[:2])

    @cached_property
    def _edges(self) -> Field:
        return self.pair.field(self.stored)

    @cached_property
    def _spectrum(self) -> Field:
        return spectrum(self._edges, self._shape)

    @cached_property
    def _as_it_is(self) -> NDArray[np.float32]:
        return correlation(self._target, self._spectrum)

    def _field(self, orientation: Orientation, scale: float) -> Field:
        """The field of the map, once it is turned upright and scaled back."""
        scaled = self._edges if scale == 1 else self.pair.field(unscaled(self.stored, scale))
        return orientation.undo(scaled)

    def _surface(self, orientation: Orientation, scale: float) -> NDArray[np.float32]:
        """How well the map fits at every shift in an orientation and a scale."""
        return correlation(self._target, spectrum(self._field(orientation, scale), self._shape))

    def fit(self, orientation: Orientation = UPRIGHT, scale: float = 1.0) -> Fit:
        """The best shift for an orientation and a scale."""
        as_it_is = orientation == UPRIGHT and scale == 1
        found = peak(self._as_it_is if as_it_is else self._surface(orientation, scale))
        return Fit(found.score, (found.dx * self.ratio, found.dy * self.ratio), orientation, scale)

    def scores(self, ways: Sequence[tuple[Orientation, float]]) -> list[float]:
        """The scores of the best shifts for orientations and scales. Faster than one by one where the size is small."""
        spectra = np.stack([spectrum(self._field(*way), self._shape) for way in ways])
        return [peak(surface).score for surface in correlation(self._target, spectra)]

    @cached_property
    def stretch(self) -> Stretch:
        """How the map seems to be scaled about its centre, where it is hardly shifted."""
        if self.pair.lies or self.fit().distance > SLACK * self.ratio:
            return Stretch()
        return stretch(self._ground, blocks(self._spectrum, self.picture.shape[:2]))

    def here(self, reach: int = 1) -> float:
        """How well the map fits as it is, give or take `reach` pixels of the working size."""
        return 0.0 if self.pair.lies else score_here(self._as_it_is, reach)

    def itself(self) -> float:
        """How well the picture fits itself: as well as anything can."""
        return score_here(correlation(self._target, self._target))

    def evidence(self) -> float:
        """How many pixels the map's field rests on."""
        power = np.abs(self._edges) ** 2
        return float(power.sum() ** 2 / max(float((power**2).sum()), 1e-12))

    def empty(self) -> bool:
        """Whether there is nothing to compare."""
        return min(edge_share(self._gradients), edge_share(tensor(self.stored))) < SPARSE
