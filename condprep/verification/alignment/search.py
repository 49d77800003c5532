"""The search for a way in which a map fits its picture better than it does as it is.

A pair that fits as it is gets a coarse look at other orientations and scales, so that good pairs cost little; another pair
is searched in full. Scores are in units of noise (see `registration`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from condprep.verification.alignment.multiscale import Fit, MultiscalePair, View
from condprep.verification.alignment.registration import UPRIGHT, Orientation

BETTER = 1.1  # how many times better than upright another orientation or scale must fit
MARGIN = 4.0  # and by how much better than as it is: the best of a few dozen ways gains 3 by chance
CLEARLY = 0.5  # how much better another shift must fit, or a scale that the parts of the map tell
COARSE = 128  # longer side in pixels at which other orientations and scales are tried first
PLAUSIBLE = 5.0  # score at COARSE that different scenes hardly reach anywhere
CHANCE = 8.0  # score that different scenes hardly reach anywhere in full
DOUBT = 0.9  # share of the upright score from which another way gets a closer look
SCALING = 0.0075  # difference of a scale from 1 that is none
COARSE_SCALES = tuple(1.05**step for step in range(-14, 15) if step)  # 0.5 to 2; a match at COARSE bears 3 %
SUSPECT = 1.0  # shift in pixels from which a pair is looked at in full size


@dataclass(frozen=True)
class Rules:
    """What counts as what."""

    side: int  # longer side in pixels at which the pair is looked at
    tolerance: float  # shift in pixels of the full picture that is none
    here: float  # score from which the map counts as the picture's as it is
    elsewhere: float  # score from which it counts as the picture's in another way
    scales: Sequence[float]  # tried even where the pair fits, unless its parts tell one
    turns: Sequence[Orientation]  # as well
    parts: bool = False  # whether the parts of the map are asked for its scale


def suspect(pair: MultiscalePair, coarse: View, view: View, rules: Rules) -> Fit | None:
    """What seems to fit better than the pair as it is: a shift, or clearly better, another orientation or scale."""
    here = view.here()
    upright = [] if pair.lies else [view.fit()]
    best = max([here, *(fit.score for fit in upright)])
    near = _stretched(view) if rules.parts else []
    others = [] if pair.lies else _doubtful(coarse, view, rules.turns, [] if near else rules.scales)
    if here < 2 * rules.here and best < 2 * rules.elsewhere:  # may resemble itself, moved or scaled
        others += _everything(pair, coarse, view, rules)
    better = max(BETTER * best, here + MARGIN)
    fits = [fit for fit in others if fit.score > better] + [fit for fit in upright if fit.distance >= SUSPECT]
    fits += [fit for fit in near if fit.score >= best + CLEARLY]
    # What fits as it is shows the same scene, and then better than chance is enough
    least = rules.elsewhere if here < rules.here else min(rules.elsewhere, CHANCE)
    return max((fit for fit in fits if fit.score >= least), key=lambda fit: fit.score, default=None)


def confirmed(suspect: Fit, full: View, tolerance: float) -> Fit | None:
    """The suspect with its exact shift; None where in full size it is none."""
    fit, here = full.fit(suspect.orientation, suspect.scale), full.here()
    if suspect.orientation == UPRIGHT and suspect.scale == 1:
        return fit if fit.distance >= tolerance and fit.score >= here + CLEARLY else None
    least = here + CLEARLY if suspect.near else BETTER * here
    return replace(suspect, shift=fit.shift) if max(fit.score, suspect.score) > least else None


def _doubtful(coarse: View, view: View, turns: Sequence[Orientation], scales: Sequence[float]) -> list[Fit]:
    """Other orientations and scales of a pair that fits upright, where a coarse look cannot rule them out."""
    least, best = DOUBT * coarse.fit().score, DOUBT * view.fit().score
    ways = [*((turned, 1.0) for turned in turns), *((UPRIGHT, scale) for scale in scales)]
    doubtful = [way for way, score in zip(ways, coarse.scores(ways)) if score > least]
    fits = [view.fit(turned) for turned, scale in doubtful if scale == 1]
    near = [scale for _, scale in doubtful if scale != 1]
    return fits + _scaled(view, [scale for scale in near if view.fit(scale=scale).score > best])


def _stretched(view: View) -> list[Fit]:
    """The best fit around the scale that the parts of the map tell, where they do."""
    told = view.stretch
    return _scaled(view, [told.scale] if told.gain >= CLEARLY and abs(told.scale - 1) >= SCALING else [])


def _everything(pair: MultiscalePair, coarse: View, view: View, rules: Rules) -> list[Fit]:
    """The orientations, and the best scale, that a coarse look finds plausible for a pair that does not fit upright."""
    fits = [view.fit(orientation) for orientation in pair.orientations if coarse.fit(orientation).score >= PLAUSIBLE]
    if pair.lies or any(fit.score >= 2 * rules.elsewhere for fit in fits):
        return fits
    best = max((coarse.fit(scale=scale) for scale in COARSE_SCALES), key=lambda fit: fit.score)
    return fits + _scaled(view, [best.scale] if best.score >= PLAUSIBLE else [])


def _scaled(view: View, scales: Sequence[float]) -> list[Fit]:
    """The best fits around these scales, but for those that are hardly any scaling: these are shifts."""
    fits = [_finer(view, scale) for scale in scales]
    return [fit for fit in fits if abs(fit.scale - 1) >= SCALING]


def _finer(view: View, scale: float) -> Fit:
    """The best fit among the scales around one, in steps of 1 %, as far as it gets better, then of 0.5 %."""
    best = max((view.fit(scale=scale + step / 100) for step in range(-3, 4)), key=lambda fit: fit.score)
    if abs(best.scale - scale) > 0.025 and 0.5 < best.scale < 2:
        return _finer(view, best.scale)
    return max((best, *(view.fit(scale=best.scale + step) for step in (-0.005, 0.005))), key=lambda fit: fit.score)
