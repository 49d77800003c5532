"""Is this condition map that of this picture, and if not, how is it off: shifted, flipped, turned, scaled, another's?

`compare` has the map that the annotator makes of the picture today, and tells 2 pixels; `compare_picture` has the picture
alone, and tells 4. A pair that fits as it is gets a coarse look at other orientations and scales, so that good pairs cost
little; another pair is searched in full. Scores are in units of noise (see `registration`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from condprep.checks.registration import (
    FLIPS,
    TURNS,
    UPRIGHT,
    Field,
    Orientation,
    Picture,
    correlation,
    edge_share,
    fast_shape,
    lines,
    peak,
    resized,
    score_here,
    spectrum,
    steps,
    unscaled,
)

Verdict = Literal["aligned", "shifted", "flipped", "turned", "scaled", "cropped", "other picture", "unknown"]
LINE_KINDS = ("edges", "soft")  # their maps draw lines, those of all others have steps

HERE = 5.0  # score at no shift from which a map counts as the picture's; different scenes stay below 4.5
ELSEWHERE = 7.0  # score anywhere else from which a map counts as found; different scenes get there now and then
BETTER = 1.1  # how many times better than the pair as it is another orientation or scale must fit
CLEARLY = 0.5  # how much better another shift must fit; more is asked of what is tried more often
COARSE = 128  # longer side in pixels at which other orientations and scales are tried first
COARSE_SCALES = tuple(1.05**step for step in range(-14, 15) if step)  # 0.5 to 2; a match at COARSE bears 3 %
SUSPECT = 1.0  # shift in pixels from which a pair is looked at in full size
FULL = 1024  # longer side in pixels that "full size" has at most
SPARSE = 0.002  # share of edge pixels below which there is nothing to compare


@dataclass(frozen=True, slots=True)
class Alignment:
    """How a condition map lies on its picture."""

    verdict: Verdict
    reason: str = ""  # a sentence for every verdict but "aligned"
    shift: tuple[int, int] = (0, 0)  # (dx, dy) pixels of the map, to the right and down
    orientation: str = ""  # "flipped horizontally", ...
    scale: float = 1.0  # of the map about its centre
    score: float = 0.0  # of the map as it fits best
    here: float = 0.0  # of the map as it is

    @property
    def wrong(self) -> bool:
        """Whether this pair would teach the wrong thing."""
        return self.verdict not in ("aligned", "unknown")


def compare(again: Picture, stored: Picture, tolerance: float = 1.5) -> Alignment:
    """The map that the annotator makes of the picture now against the one that is stored, both (H, W[, C]) uint8.

    Tells shifts from `tolerance` pixels on, flips, turns, scales from 2 % on and maps of other pictures. Maps that differ
    a little everywhere (the picture was stored as JPEG, the thresholds were others) are aligned.
    """
    if again.shape == stored.shape and np.array_equal(again, stored):
        return Alignment("aligned", score=np.inf, here=np.inf)
    return _judge(_Views(again, stored, steps, steps), 512, tolerance, scales=(0.97, 1.03))


def compare_picture(picture: Picture, stored: Picture, kind: str, tolerance: float = 3) -> Alignment:
    """A picture (H, W, 3) uint8 RGB against its map (H, W[, C]) uint8 of a kind, whoever made the map.

    Tells shifts from about `tolerance` pixels on (at 512), flips, turns, scales from 5 % on and maps of other pictures.
    kind: "edges" and "soft" draw lines, "depth", "normal", "segmentation" and any other kind have steps. A pose has too
    little to do with the edges of its picture: "unknown"; annotate the picture and use `compare`.
    """
    if kind == "pose":
        return Alignment("unknown", "a pose map can only be compared with poses found in the picture")
    field = lines if kind in LINE_KINDS else steps
    return _judge(_Views(picture, stored, steps, field), 256, tolerance, scales=(0.95, 1.05))


@dataclass(frozen=True)
class _Fit:
    """One way in which the stored map may lie on the picture, and how well that fits. Shifts in full pixels."""

    score: float
    shift: tuple[float, float] = (0, 0)
    orientation: Orientation = UPRIGHT
    scale: float = 1.0

    @property
    def distance(self) -> float:
        """The larger part of the shift."""
        return max(map(abs, self.shift))


class _View:
    """A picture and a map at one working size, and their correlations."""

    def __init__(self, pair: _Views, side: int) -> None:
        height, width = pair.picture.shape[:2]
        self.ratio = max(1.0, max(height, width) / side)
        self.size = max(1, round(height / self.ratio)), max(1, round(width / self.ratio))
        self.picture = resized(pair.picture, *self.size)
        self.stored = resized(pair.stored, *(self.size[::-1] if pair.lies else self.size))
        self._pair, self._shape = pair, fast_shape(self.size)

    @cached_property
    def _target(self) -> Field:
        return spectrum(self._pair.picture_field(self.picture), self._shape)

    @cached_property
    def _edges(self) -> Field:
        return self._pair.stored_field(self.stored)

    def surface(self, orientation: Orientation = UPRIGHT, scale: float = 1.0) -> NDArray[np.float32]:
        """How well the map fits at every shift, once it is turned upright and scaled back."""
        edges = self._edges if scale == 1 else self._pair.stored_field(unscaled(self.stored, scale))
        return correlation(self._target, spectrum(orientation.undo(edges), self._shape))

    def fit(self, orientation: Orientation = UPRIGHT, scale: float = 1.0) -> _Fit:
        """The best shift for an orientation and a scale."""
        found = peak(self.surface(orientation, scale))
        return _Fit(found.score, (found.dx * self.ratio, found.dy * self.ratio), orientation, scale)

    def here(self) -> float:
        """How well the map fits as it is."""
        return 0.0 if self._pair.lies else score_here(self.surface())


@dataclass(frozen=True)
class _Views:
    """A picture, a map, and how each becomes a field; a view at any size."""

    picture: Picture
    stored: Picture
    picture_field: Callable[[Picture], Field]
    stored_field: Callable[[Picture], Field]

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

    def at(self, side: int) -> _View:
        return _View(self, side)


def _judge(pair: _Views, side: int, tolerance: float, scales: Sequence[float]) -> Alignment:
    """The verdict from the pair at a longer side of `side` pixels; `scales` are tried even where the pair fits."""
    coarse, view = pair.at(COARSE), pair.at(side)
    if min(edge_share(coarse.picture), edge_share(coarse.stored)) < SPARSE:
        return Alignment("unknown", "picture or condition has too few edges to be compared")
    here = view.here()
    fits = [] if pair.lies else _shifted(pair, view, tolerance)
    fits += _doubtful(pair, coarse, view, scales) if here >= HERE else _everything(pair, coarse, view)
    best = max(fits, key=lambda fit: fit.score, default=None)
    if best is not None and best.score >= ELSEWHERE:
        return _described(best, here)
    if here >= HERE:
        return Alignment("aligned", score=here, here=here)
    return Alignment("other picture", "condition does not belong to this picture", score=here, here=here)


def _shifted(pair: _Views, view: _View, tolerance: float) -> list[_Fit]:
    """The shift that fits best, if it is one: looked at in full size where it is small, as texture can move it by 2 px."""
    fit = view.fit()
    if fit.distance < SUSPECT or view.ratio == 1:
        return [fit] if fit.distance >= tolerance and fit.score > view.here() + CLEARLY else []
    full = pair.at(FULL)
    exact = full.fit()
    if exact.distance < tolerance or exact.score < full.here() + CLEARLY:
        return []
    return [replace(fit, shift=exact.shift)]


def _doubtful(pair: _Views, coarse: _View, view: _View, scales: Sequence[float]) -> list[_Fit]:
    """Other orientations and scales of a pair that fits as it is, where a coarse look cannot rule them out."""
    doubt = 0.9 * coarse.here()
    fits = [view.fit(o) for o in pair.orientations if coarse.fit(o).score > doubt]
    fits += [_finer(view, scale) for scale in scales if coarse.fit(scale=scale).score > doubt]
    return [fit for fit in fits if fit.score > BETTER * view.here()]


def _everything(pair: _Views, coarse: _View, view: _View) -> list[_Fit]:
    """All orientations of a pair that does not fit as it is, and the scale that fits best at a coarse look."""
    fits = [view.fit(orientation) for orientation in pair.orientations]
    if not pair.lies:
        fits.append(_finer(view, max(COARSE_SCALES, key=lambda scale: coarse.fit(scale=scale).score)))
    return fits


def _finer(view: _View, scale: float) -> _Fit:
    """The best fit among the scales around one, in steps of 1 %."""
    fits = [view.fit(scale=scale * (1 + step / 100)) for step in range(-2, 3)]
    return max(fits, key=lambda fit: fit.score)


def _described(fit: _Fit, here: float) -> Alignment:
    verdict, words = _words(fit)
    shift = round(fit.shift[0]), round(fit.shift[1])
    return Alignment(
        verdict, f"condition is {words}", shift, fit.orientation.name, fit.scale, score=fit.score, here=here
    )


def _words(fit: _Fit) -> tuple[Verdict, str]:
    shift = "shifted by ({:+d}, {:+d}) px".format(*map(round, fit.shift))
    if fit.orientation != UPRIGHT:
        return "flipped" if fit.orientation.mirrored else "turned", fit.orientation.name
    if fit.scale != 1:
        return "scaled", f"scaled by {fit.scale:.2f} about its centre, then {shift}"
    return "shifted", shift
