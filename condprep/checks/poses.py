"""Poses drawn on a condition map against poses found in its picture, perhaps by another annotator."""

from __future__ import annotations

from dataclasses import replace

from condprep.checks.comparison import Alignment, compare, described
from condprep.checks.registration import UPRIGHT, Picture
from condprep.checks.search import COARSE
from condprep.checks.views import Pair

SAME_DRAWING = 0.75  # a drawn pose moved on purpose scores 0.83 to 1; found again in a JPEG and a bit off, up to 0.61


def compare_poses(found: Picture, stored: Picture) -> Alignment:
    """Poses found in the picture and drawn against a stored pose map, both (H, W, 3) uint8, perhaps of two annotators.

    Where it is the very same drawing, moved, that is told as `compare` does. But two annotators put a joint up to a dozen
    pixels apart (at 512), and one annotator half of that when the picture went through a JPEG; now and then they see
    other people. Then only shifts far beyond that, flips, turns and poses of other pictures are told.
    """
    exact = compare(found, stored, same=SAME_DRAWING)
    if exact.verdict != "other picture":
        return exact
    pair = Pair(found, stored)
    view = pair.at(COARSE)
    here = view.here(reach=2)
    ways = pair.orientations if pair.lies else (UPRIGHT, *pair.orientations)
    best = max((view.fit(orientation) for orientation in ways), key=lambda fit: fit.score)
    if best.score >= max(9.0, 1.5 * here):
        return described(pair, best, here)
    if here >= 4.2:  # 95 % of the poses of other pictures stay below, one in a hundred of the picture's own
        return Alignment("aligned" if here >= 6.5 else "unknown", "poses resemble those found", score=here, here=here)
    return replace(exact, here=here)
