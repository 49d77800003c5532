"""Poses drawn on a condition map against poses found in its picture, perhaps by another annotator.

The joints of both drawings are compared (see `joints`). One annotator puts a joint within two pixels of where it was, also
after the picture went through a JPEG, and seldom elsewhere; two annotators put it several hundredths of a body apart.
So each pair tells by itself how much its joints are worth: a shift counts that is larger than its own error allows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from condprep.images.decode import Pixels
from condprep.verification.alignment.comparison import OTHER, Alignment, compare, described
from condprep.verification.alignment.multiscale import Fit, MultiscalePair
from condprep.verification.alignment.registration import UPRIGHT
from condprep.verification.alignment.search import COARSE_SCALES
from condprep.verification.poses.joints import Joints, drawn_joints, limb
from condprep.verification.poses.placement import Overlay, PosePlacement

FEWEST = 4  # joints from which a pose can be compared
SIMILAR = 0.1  # share of the joints that fit as the map lies, from which it cannot be another picture's
RECOGNISABLE = 8  # joints of both that tell whether one annotator drew them
CERTAIN = 6  # joints of both from which nothing alike means another picture, of an annotator that wobbles,
WHOLE = 16  # and of two: they see the same people, where these are whole, and often others, where they are not
SAME_DRAWING = 0.75  # a drawing without known joints moved on purpose scores 0.83 to 1; found again, up to 0.61
FINE = 3 / 512  # of the longer side: how far apart one annotator's joints are
COARSE, NARROWEST, WIDEST = 0.2, 4 / 512, 20 / 512  # of a limb, and of the longer side: those of two annotators


@dataclass(frozen=True)
class _Rules:
    """What counts as what. Limits of one annotator, or of two."""

    fits: float  # share of the joints that must fit in the best way there is
    better: float  # how many times more joints than upright must fit in another orientation or scale
    enough: int  # joints of both that tell a shift, a scale, or another picture
    sharper: float  # times the width with which the drift is measured
    tolerance: float  # pixels of a shift that is none
    errors: float  # standard errors of the shift that are added to it
    growth: float  # of the scale that is none
    growth_errors: float  # standard errors of the growth that are added to it


ONE = _Rules(fits=0.6, better=1.25, enough=4, sharper=1 / 3, tolerance=1.0, errors=1.0, growth=0.008, growth_errors=2.0)
TWO = _Rules(fits=0.5, better=1.5, enough=10, sharper=1.0, tolerance=3.0, errors=4.0, growth=0.1, growth_errors=4.0)


def compare_poses(found: Pixels, stored: Pixels, own: bool = False, wobble: float = 0.0) -> Alignment:
    """Poses found in the picture and drawn against a stored pose map, both (H, W, 3) uint8, perhaps of two annotators.

    own: the annotator is the one that made the map. wobble: pixels at 512 by which it moves people as a whole when the
    picture went through a JPEG. The score, and what fits here, are numbers of joints; the likeness is their share.
    Of a drawing in other colours than OpenPose's only that is told which is the very same drawing, moved.
    """
    if found.shape == stored.shape and np.array_equal(found, stored) and stored.any():
        return Alignment("aligned", score=np.inf, here=np.inf, likeness=1.0)
    pair = MultiscalePair(found, stored)
    if not pair.alike:
        return Alignment("unknown", "the condition has another shape than the picture")
    stored = pair.sized
    seen, shown = drawn_joints(found), drawn_joints(stored)
    if not len(shown) and stored.any():
        return _by_edges(found, stored)
    if min(len(seen), len(shown)) < FEWEST:
        return Alignment("unknown", "too few joints are drawn or were found")
    return _judge(pair, seen, shown, own, wobble)


def same_drawing(found: Pixels, stored: Pixels) -> bool | None:
    """Whether one annotator drew both, of one picture; the stored map may be shifted, scaled, flipped or turned.

    Both (H, W, 3) uint8. None where too few joints are drawn to tell.
    """
    pair = MultiscalePair(found, stored)
    if not pair.alike:
        return None
    seen, shown = drawn_joints(found), drawn_joints(pair.sized)
    if min(len(seen), len(shown)) < RECOGNISABLE:
        return None
    size = found.shape[:2]
    return _best(pair, Overlay(seen, shown, (size[0], size[1]), FINE * max(size)), ONE) is not None


def _by_edges(found: Pixels, stored: Pixels) -> Alignment:
    exact = compare(found, stored, same=SAME_DRAWING)
    return exact if exact.verdict != "other picture" else Alignment("unknown", "the joints are drawn in other colours")


def _judge(pair: MultiscalePair, seen: Joints, shown: Joints, own: bool, wobble: float) -> Alignment:
    """First as one annotator's joints lie; where they do not, as those of two, unless it is its own and steady."""
    side, size = max(pair.picture.shape[:2]), pair.picture.shape[:2]
    fine = Overlay(seen, shown, size, FINE * side)
    steady = own and not wobble
    if (best := _best(pair, fine, ONE)) is not None:
        return _told(pair, fine, best, ONE if steady else _wobbling(wobble * side / 512))
    if steady:
        return _strange(pair, fine)
    limbs = float(np.clip(COARSE * limb(seen), NARROWEST * side, WIDEST * side))
    coarse = Overlay(seen, shown, size, limbs)
    if (best := _best(pair, coarse, TWO)) is not None:
        return _told(pair, coarse, best, TWO)
    if coarse.most < (CERTAIN if own else WHOLE):
        return Alignment("unknown", "other people are drawn than were found")
    return _strange(pair, coarse)


def _wobbling(pixels: float) -> _Rules:
    """ONE, of an annotator that moves people as a whole, and so that they seem to have grown."""
    return replace(ONE, tolerance=ONE.tolerance + pixels, growth=TWO.growth, enough=TWO.enough)


def _strange(pair: MultiscalePair, overlay: Overlay) -> Alignment:
    """The verdict on a map that fits in no way."""
    here = _here(pair, overlay)
    likeness = here / overlay.most
    if likeness >= SIMILAR:
        return Alignment("unknown", "only some joints fit", score=here, here=here)
    return Alignment("other picture", OTHER, score=here, here=here, likeness=likeness)


def _here(pair: MultiscalePair, overlay: Overlay) -> float:
    return 0.0 if pair.lies else overlay.as_it_is()


def _best(pair: MultiscalePair, overlay: Overlay, rules: _Rules) -> PosePlacement | None:
    """The way in which most joints fit, upright and of the right size where that is nearly as good; None: none is good."""
    least = rules.fits * overlay.most
    upright = PosePlacement() if pair.lies else _settled(overlay, overlay.best())
    others = [overlay.best(orientation) for orientation in pair.orientations]
    if not pair.lies and max(upright.fitting, *(one.fitting for one in others)) < least:
        scaled = max((overlay.best(scale=scale) for scale in COARSE_SCALES), key=lambda one: one.fitting)
        others.append(_settled(overlay, scaled))
    best = max(others, key=lambda one: one.fitting)
    if best.fitting < rules.better * upright.fitting:
        best = upright
    return best if best.fitting >= least else None


def _settled(overlay: Overlay, upright: PosePlacement) -> PosePlacement:
    """The same, in a scale between those that were tried where more joints fit then."""
    growth = overlay.drift(upright, overlay.width).growth
    return max(upright, overlay.best(scale=1 + float(np.clip(growth, -0.5, 1))), key=lambda one: one.fitting)


def _told(pair: MultiscalePair, overlay: Overlay, best: PosePlacement, rules: _Rules) -> Alignment:
    """The verdict on a map that fits somehow."""
    here = _here(pair, overlay)
    likeness = here / overlay.most
    if best.orientation != UPRIGHT:
        fit = Fit(best.fitting, best.shift, best.orientation)
        return replace(described(pair, fit, here), likeness=likeness)
    drift = overlay.drift(best, rules.sharper * overlay.width)
    grown = abs(drift.growth) >= rules.growth + rules.growth_errors * drift.growth_error
    shifted = max(map(abs, drift.shift)) >= rules.tolerance + rules.errors * drift.shift_error
    if not grown and not shifted:
        shift = round(drift.shift[0]), round(drift.shift[1])
        return Alignment("aligned", shift=shift, score=best.fitting, here=here, likeness=best.fitting / overlay.most)
    if overlay.most < rules.enough:
        return Alignment("unknown", "too few joints fit", score=best.fitting, here=here)
    fit = Fit(best.fitting, drift.central, scale=1 + drift.growth) if grown else Fit(best.fitting, drift.shift)
    return replace(described(pair, fit, here), likeness=likeness)
