"""Is this condition map that of this picture, and if not, how is it off: shifted, flipped, turned, scaled, another's?

`compare` has the map that the annotator makes of the picture now, and tells 2 pixels; `compare_picture` has the picture
alone, and tells 4; `compare_poses` has the poses that an annotator, perhaps another one, finds in the picture. A pair that
fits as it is gets a coarse look at other orientations and scales, so that good pairs cost little; another pair is searched
in full. Scores are in units of noise (see `registration`).
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
    Tensor,
    correlation,
    edge_share,
    fast_shape,
    lines,
    peak,
    resized,
    score_here,
    spectrum,
    steps,
    steps_of,
    tensor,
    unscaled,
    unscaled_field,
)

Verdict = Literal["aligned", "shifted", "flipped", "turned", "scaled", "cropped", "other picture", "unknown"]
LINE_KINDS = ("canny", "scribble", "softedge", "lineart")  # their maps draw lines, those of all others have steps

# Of a map's score with itself. Made again from a JPEG or with other thresholds it scores 0.15 to 1 in its place, another
# picture's map up to 0.05 there; anywhere else a map moved on purpose 0.48 to 1, another picture's up to 0.17
SIMILAR, SAME_MAP = 0.1, 0.3
SAME_DRAWING = 0.75  # a drawn pose moved on purpose scores 0.83 to 1; found again in a JPEG and a bit off, up to 0.61
BETTER = 1.1  # how many times better than the pair as it is another orientation or scale must fit
CLEARLY = 0.5  # how much better another shift must fit
COARSE = 128  # longer side in pixels at which other orientations and scales are tried first
PLAUSIBLE = 5.0  # score at COARSE that different scenes hardly reach anywhere
SURE = 16.0  # score that no other scene reaches
COARSE_SCALES = tuple(1.05**step for step in range(-14, 15) if step)  # 0.5 to 2; a match at COARSE bears 3 %
SUSPECT = 1.0  # shift in pixels from which a pair is looked at in full size
FULL = 1024  # longer side in pixels that "full size" has at most
SPARSE = 0.002  # share of edge pixels below which there is nothing to compare
# Pixels that carry a map's field (its participation ratio) at a longer side of 256, below which another scene may resemble it
# as much as its own: of n such pixels the own scene scores about 0.3 sqrt(n), another up to 4 as it is
EVIDENCE = 300.0
SHAPE = 1.1  # how many times wider, for its height, a map may be than its picture, or narrower, to be compared at all
PART = 1.05  # scale from which a map that lies within its picture is called a part of it
FRAME = 5  # pixels by which it may seem to reach over the picture's edge


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
    likeness: float | None = None  # of the map as it is to itself, about 0..1, where it was compared with its like

    @property
    def wrong(self) -> bool:
        """Whether this pair would teach the wrong thing."""
        return self.verdict not in ("aligned", "unknown")


def compare(again: Picture, stored: Picture, tolerance: float = 1.5, same: float = SAME_MAP) -> Alignment:
    """The map that the annotator makes of the picture now against the one that is stored, both (H, W[, C]) uint8.

    Tells shifts from `tolerance` pixels on, flips, turns, scales from 2 % on and maps of other pictures. Maps that differ
    a little everywhere (the picture was stored as JPEG, the thresholds were others) are aligned. same: the share of a
    map's score with itself from which the stored map counts as found elsewhere. For poses there is `compare_poses`.
    """
    if again.shape == stored.shape and np.array_equal(again, stored):
        return Alignment("aligned", score=np.inf, here=np.inf, likeness=1.0)
    pair = _Pair(again, stored)
    full = pair.at(512).itself()
    rules = _Rules(
        512, tolerance, here=SIMILAR * full, elsewhere=same * full, scales=(0.97, 1.03), turns=pair.orientations
    )
    found = _judge(pair, rules)
    return replace(found, likeness=found.here / full if full else None)


def compare_picture(picture: Picture, stored: Picture, kind: str, tolerance: float = 3) -> Alignment:
    """A picture (H, W, 3) uint8 RGB against its map (H, W[, C]) uint8 of a kind, whoever made the map.

    Tells shifts from about `tolerance` pixels on (at 512), flips, turns, scales from 5 % on and maps of other pictures.
    kind: LINE_KINDS draw lines, "depth", "normal", "segmentation" and any other kind have steps. A pose has too
    little to do with the edges of its picture: "unknown"; find poses in the picture and use `compare_poses`.
    """
    if kind == "pose":
        return Alignment("unknown", "a pose map can only be compared with poses found in the picture")
    # Hardly a scene but a disc fits itself turned by a quarter: FLIPS will do where the pair fits as it is.
    # Different scenes score up to 4.5 as they are, and now and then 8 somewhere; the same scene from 7 on
    rules = _Rules(256, tolerance, here=5, elsewhere=8, scales=(0.95, 1.05), turns=FLIPS)
    pair = _Pair(picture, stored, lines if kind in LINE_KINDS else steps)
    found = _judge(pair, rules)
    if found.wrong and pair.at(rules.side).evidence() < EVIDENCE:
        return Alignment("unknown", "the condition shows too little", score=found.score, here=found.here)
    return found


def compare_poses(found: Picture, stored: Picture) -> Alignment:
    """Poses found in the picture and drawn against a stored pose map, both (H, W, 3) uint8, perhaps of two annotators.

    Where it is the very same drawing, moved, that is told as `compare` does. But two annotators put a joint up to a dozen
    pixels apart (at 512), and one annotator half of that when the picture went through a JPEG; now and then they see
    other people. Then only shifts far beyond that, flips, turns and poses of other pictures are told.
    """
    exact = compare(found, stored, same=SAME_DRAWING)
    if exact.verdict != "other picture":
        return exact
    pair = _Pair(found, stored)
    view = pair.at(COARSE)
    here = view.here(reach=2)
    ways = pair.orientations if pair.lies else (UPRIGHT, *pair.orientations)
    best = max((view.fit(orientation) for orientation in ways), key=lambda fit: fit.score)
    if best.score >= max(9.0, 1.5 * here):
        return _described(pair, best, here)
    if here >= 4.2:  # 95 % of the poses of other pictures stay below, one in a hundred of the picture's own
        return Alignment("aligned" if here >= 6.5 else "unknown", "poses resemble those found", score=here, here=here)
    return replace(exact, here=here)


@dataclass(frozen=True)
class _Rules:
    """What counts as what."""

    side: int  # longer side in pixels at which the pair is looked at
    tolerance: float  # shift in pixels of the full picture that is none
    here: float  # score from which the map counts as the picture's as it is
    elsewhere: float  # score from which it counts as the picture's in another way
    scales: Sequence[float]  # tried even where the pair fits
    turns: Sequence[Orientation]  # as well


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


@dataclass(frozen=True)
class _Pair:
    """A picture, a map, and how the map becomes a field."""

    picture: Picture
    stored: Picture
    field: Callable[[Picture], Field] = steps

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
    def alike(self) -> bool:
        """Whether both have about the same shape, on its side perhaps: a map that was squeezed fits nothing."""
        height, width = self.picture.shape[:2]
        tall, wide = self.stored.shape[:2][:: -1 if self.lies else 1]
        return bool(1 / SHAPE <= width * tall / (height * wide) <= SHAPE)

    def at(self, side: int) -> _View:
        return _View(self, side)


class _View:
    """A picture and a map at one working size, and their correlations."""

    def __init__(self, pair: _Pair, side: int) -> None:
        height, width = pair.picture.shape[:2]
        self.ratio = max(1.0, max(height, width) / side)
        size = max(1, round(height / self.ratio)), max(1, round(width / self.ratio))
        self.picture = resized(pair.picture, *size)
        self.stored = resized(pair.stored, *(size[::-1] if pair.lies else size))
        self._pair, self._shape = pair, fast_shape(size)

    @cached_property
    def _gradients(self) -> Tensor:
        return tensor(self.picture)

    @cached_property
    def _target(self) -> Field:
        return spectrum(steps_of(self._gradients), self._shape)

    @cached_property
    def _edges(self) -> Field:
        return self._pair.field(self.stored)

    @cached_property
    def _as_it_is(self) -> NDArray[np.float32]:
        return self._surface(UPRIGHT, 1)

    def _surface(self, orientation: Orientation, scale: float) -> NDArray[np.float32]:
        """How well the map fits at every shift, once it is turned upright and scaled back."""
        edges = self._edges if scale == 1 else self._pair.field(unscaled(self.stored, scale))
        return correlation(self._target, spectrum(orientation.undo(edges), self._shape))

    def fit(self, orientation: Orientation = UPRIGHT, scale: float = 1.0) -> _Fit:
        """The best shift for an orientation and a scale."""
        as_it_is = orientation == UPRIGHT and scale == 1
        found = peak(self._as_it_is if as_it_is else self._surface(orientation, scale))
        return _Fit(found.score, (found.dx * self.ratio, found.dy * self.ratio), orientation, scale)

    def roughly(self, scale: float) -> float:
        """About the score of the best shift for a scale near 1: the field is scaled instead of the map."""
        return peak(correlation(self._target, spectrum(unscaled_field(self._edges, scale), self._shape))).score

    def here(self, reach: int = 1) -> float:
        """How well the map fits as it is, give or take `reach` pixels of the working size."""
        return 0.0 if self._pair.lies else score_here(self._as_it_is, reach)

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


def _judge(pair: _Pair, rules: _Rules) -> Alignment:
    """The verdict. An alarm of the working size must hold in full size, where texture counts that the other has lost."""
    if not pair.alike:
        return Alignment("unknown", "the condition has another shape than the picture")
    coarse, view = pair.at(COARSE), pair.at(rules.side)
    if coarse.empty():
        return Alignment("unknown", "picture or condition has too few edges to be compared")
    suspect = _suspect(pair, coarse, view, rules)
    here = view.here()
    if suspect is None and here >= rules.here:
        return Alignment("aligned", score=here, here=here)
    full = view if view.ratio == 1 else pair.at(FULL)
    here = full.here()
    if suspect is not None and (found := _confirmed(suspect, full, rules.tolerance)):
        return _described(pair, found, here)
    if here >= rules.here:
        return Alignment("aligned", score=here, here=here)
    return Alignment("other picture", "condition does not belong to this picture", score=here, here=here)


def _suspect(pair: _Pair, coarse: _View, view: _View, rules: _Rules) -> _Fit | None:
    """What seems to fit better than the pair as it is: a shift, or clearly better, another orientation or scale."""
    here = view.here()
    upright = [] if pair.lies else [view.fit()]
    best = max([here, *(fit.score for fit in upright)])
    sure = (
        here >= 2 * rules.here or best >= 2 * rules.elsewhere
    )  # less may be a pair that resembles itself, moved or scaled
    others = _doubtful(coarse, view, rules) if sure else _everything(pair, coarse, view)
    fits = [fit for fit in others if fit.score > BETTER * best] + [fit for fit in upright if fit.distance >= SUSPECT]
    suspect = max(fits, key=lambda fit: fit.score, default=None)
    return suspect if suspect is not None and suspect.score >= rules.elsewhere else None


def _confirmed(suspect: _Fit, full: _View, tolerance: float) -> _Fit | None:
    """The suspect with its exact shift; None where in full size it is none."""
    fit, here = full.fit(suspect.orientation, suspect.scale), full.here()
    if suspect.orientation == UPRIGHT and suspect.scale == 1:
        return fit if fit.distance >= tolerance and fit.score >= here + CLEARLY else None
    return replace(suspect, shift=fit.shift) if max(fit.score, suspect.score) > BETTER * here else None


def _doubtful(coarse: _View, view: _View, rules: _Rules) -> list[_Fit]:
    """Other orientations and scales of a pair that fits upright, where a coarse look cannot rule them out."""
    doubt, best = 0.9 * coarse.fit().score, view.fit().score
    fits = [view.fit(turned) for turned in rules.turns if coarse.fit(turned).score > doubt]
    near = [scale for scale in rules.scales if coarse.roughly(scale) > doubt]
    return fits + [_finer(view, scale) for scale in near if view.fit(scale=scale).score > best]


def _everything(pair: _Pair, coarse: _View, view: _View) -> list[_Fit]:
    """The orientations, and the best scale, that a coarse look finds plausible for a pair that does not fit upright."""
    fits = [view.fit(orientation) for orientation in pair.orientations if coarse.fit(orientation).score >= PLAUSIBLE]
    if pair.lies or any(fit.score >= SURE for fit in fits):
        return fits
    best = max((coarse.fit(scale=scale) for scale in COARSE_SCALES), key=lambda fit: fit.score)
    return [*fits, _finer(view, best.scale)] if best.score >= PLAUSIBLE else fits


def _finer(view: _View, scale: float) -> _Fit:
    """The best fit among the scales around one, in steps of 1 %, as far as it gets better, then of 0.5 %."""
    best = max((view.fit(scale=scale + step / 100) for step in range(-3, 4)), key=lambda fit: fit.score)
    if abs(best.scale - scale) > 0.025 and 0.5 < best.scale < 2:
        return _finer(view, best.scale)
    return max((best, *(view.fit(scale=best.scale + step) for step in (-0.005, 0.005))), key=lambda fit: fit.score)


def _described(pair: _Pair, fit: _Fit, here: float) -> Alignment:
    verdict, words = _words(pair, fit)
    shift = round(fit.shift[0]), round(fit.shift[1])
    return Alignment(
        verdict, f"condition {words}", shift, fit.orientation.name, round(fit.scale, 3), score=fit.score, here=here
    )


def _words(pair: _Pair, fit: _Fit) -> tuple[Verdict, str]:
    if fit.orientation != UPRIGHT:
        return "flipped" if fit.orientation.mirrored else "turned", f"is {fit.orientation.name}"
    shift = "shifted by ({}, {}) px".format(*(f"{moved:+d}" if moved else "0" for moved in map(round, fit.shift)))
    if fit.scale == 1:
        return "shifted", f"is {shift}"
    x0, y0, x1, y1 = box = _box(pair, fit)
    height, width = pair.picture.shape[:2]
    inside = min(box) > -FRAME and x1 < width + FRAME and y1 < height + FRAME
    if fit.scale >= PART and inside:
        return "cropped", f"shows only ({x0}, {y0}) to ({x1}, {y1}) of the picture, {fit.scale:.2f} times enlarged"
    return "scaled", f"is scaled by {fit.scale:.2f} about its centre and {shift}"


def _box(pair: _Pair, fit: _Fit) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 in pixels: the part of the picture that a scaled and shifted map shows."""
    height, width = pair.picture.shape[:2]
    (x0, x1), (y0, y1) = (
        ((side - 1) / 2 * (1 - 1 / fit.scale) - moved, (side - 1) / 2 * (1 + 1 / fit.scale) - moved)
        for side, moved in zip((width, height), fit.shift)
    )
    return round(x0), round(y0), round(x1), round(y1)
