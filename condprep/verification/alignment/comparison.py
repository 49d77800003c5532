"""Is this condition map that of this picture, and if not, how is it off: shifted, flipped, turned, scaled, another's?

`compare` has the map that the annotator makes of the picture now, and tells 2 pixels; `compare_picture` has the picture
alone, and tells 4. Scores are in units of noise (see `registration`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from condprep.images.decode import Pixels
from condprep.verification.alignment.multiscale import Fit, MultiscalePair, View
from condprep.verification.alignment.registration import FLIPS, UPRIGHT, lines
from condprep.verification.alignment.search import COARSE, Rules, confirmed, suspect

Verdict = Literal["aligned", "shifted", "flipped", "turned", "scaled", "cropped", "other picture", "unknown"]
LINE_KINDS = ("canny", "scribble", "softedge", "lineart")  # their maps may be of lines
STEP_KINDS = ("depth", "normal", "segmentation")  # theirs never are

# Of a map's score with itself. Made again from a JPEG or with other thresholds it scores 0.15 to 1 in its place, another
# picture's map up to 0.05 there; anywhere else a map moved on purpose 0.48 to 1, another picture's up to 0.17
SIMILAR, SAME_MAP = 0.1, 0.3
OTHER = "condition does not belong to this picture"
SHOWN = 0.002  # share of the pixels from which a map shows something: a small person, a few lines
FULL = 1024  # longer side in pixels that "full size" has at most
# Pixels that carry a map's field (its participation ratio) at a longer side of 256, below which another scene may resemble it
# as much as its own: of n such pixels the own scene scores about 0.3 sqrt(n), another up to 4 as it is
EVIDENCE = 300.0
SURE = 16.0  # score of a map of any number of pixels that no other scene reaches
PART = 1.05  # scale from which a map that lies within its picture is called a part of it
LEANING = (
    1.25  # pixels: HED's maps lean by up to 0.4, PiDiNet's by 0.5; and of what is shrunk, half of a pixel is not sure
)
FRAME = 5  # pixels by which it may seem to reach over the picture's edge


class Lean(NamedTuple):
    """How a map lies as a whole, told between pixels: too little for a row, it shows where many share it."""

    x: float  # pixels to the right
    y: float  # and down
    scale: float  # about the centre
    finest: float  # pixels that can be told, for all that maps of an annotator lean by nature


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
    lean: Lean | None = None  # where it lies on its picture, more or less, and was compared with that alone

    @property
    def wrong(self) -> bool:
        """Whether this pair would teach the wrong thing."""
        return self.verdict not in ("aligned", "unknown")


def compare(
    remade: Pixels, stored: Pixels, tolerance: float = 1.5, same: float = SAME_MAP, own: bool = False
) -> Alignment:
    """The map that the annotator makes of the picture now against the one that is stored, both (H, W[, C]) uint8.

    Tells shifts from `tolerance` pixels on, flips, turns, scales from 2 % on and maps of other pictures. Maps that differ
    a little everywhere (the picture was stored as JPEG, the thresholds were others) are aligned. same: the share of a
    map's score with itself from which the stored map counts as found elsewhere. own: both are of the very same annotator, so
    one that is empty cannot be that of a picture in which something is found. For poses there is `poses.comparison.compare_poses`.
    """
    if remade.shape == stored.shape and np.array_equal(remade, stored):
        return Alignment("aligned", score=np.inf, here=np.inf, likeness=1.0)
    if own and _contradict(remade, stored):
        return Alignment("other picture", OTHER, likeness=0.0)
    pair = MultiscalePair(remade, stored)
    full = pair.at(512).itself()
    rules = Rules(
        512, tolerance, here=SIMILAR * full, elsewhere=same * full, scales=(0.97, 1.03), turns=pair.orientations
    )
    found = _judge(pair.at(rules.side), rules)
    return replace(found, likeness=found.here / full if full else None)


def _contradict(remade: Pixels, stored: Pixels) -> bool:
    """Whether one map is empty and the other shows something."""
    fewer, more = sorted(np.count_nonzero(one) / one.size for one in (remade, stored))
    return bool(fewer == 0 and more >= SHOWN)


def compare_picture(picture: Pixels, stored: Pixels, kind: str, tolerance: float = 3) -> Alignment:
    """A picture (H, W, 3) uint8 RGB against its map (H, W[, C]) uint8 of a kind, whoever made the map.

    Tells shifts from about `tolerance` pixels on (at 512), flips, turns, scales from 2 to 3 % on and maps of other pictures.
    kind: maps of STEP_KINDS have steps; any other has lines or steps, whichever fit its picture better: line art may
    fill what is dark, and a soft edge can be as wide as a thing. A pose has too little to do with the edges of its
    picture: "unknown"; find poses in the picture and use `poses.comparison.compare_poses`.
    """
    if kind == "pose":
        return Alignment("unknown", "a pose map can only be compared with poses found in the picture")
    # Hardly a scene but a disc fits itself turned by a quarter: FLIPS will do where the pair fits as it is.
    # Different scenes score up to 4.5 as they are, and now and then 8 somewhere; the same scene from 7 on
    rules = Rules(256, tolerance, here=5, elsewhere=8, scales=(0.95, 1.05), turns=FLIPS, parts=True)
    view = _as_drawn(MultiscalePair(picture, stored).at(rules.side), kind)
    found = _judge(view, rules)
    if found.wrong and found.score < SURE and view.evidence() < EVIDENCE:
        return Alignment("unknown", "the condition shows too little", score=found.score, here=found.here)
    lies = found.verdict in ("aligned", "shifted", "scaled")
    return replace(found, lean=_lean(found, view)) if lies else found


def _lean(found: Alignment, view: View) -> Lean:
    scale = found.scale if found.verdict == "scaled" else view.stretch.scale
    return Lean(*view.fit().shift, scale, max(LEANING, view.ratio / 2))


def _as_drawn(view: View, kind: str) -> View:
    """The map as lines or as steps: as what it fits its picture better, moved perhaps."""
    if kind in STEP_KINDS or view.pair.lies:
        return view.drawn(lines) if kind in LINE_KINDS else view
    return max(view.drawn(lines), view, key=lambda way: way.fit().score)


def _judge(view: View, rules: Rules) -> Alignment:
    """The verdict. An alarm of the working size must hold in full size, where texture counts that the other has lost."""
    pair = view.pair
    if not pair.alike:
        return Alignment("unknown", "the condition has another shape than the picture")
    coarse = pair.at(COARSE)
    if coarse.empty():
        return Alignment("unknown", "picture or condition has too few edges to be compared")
    better, here = suspect(pair, coarse, view, rules), view.here()
    if better is None and here >= rules.here:
        return Alignment("aligned", score=here, here=here)
    full = view if view.ratio == 1 else pair.at(FULL)
    here = full.here()
    if better is not None and (found := confirmed(better, full, rules.tolerance)):
        return described(pair, found, here)
    if here >= rules.here:
        return Alignment("aligned", score=here, here=here)
    return Alignment("other picture", OTHER, score=here, here=here)


def described(pair: MultiscalePair, fit: Fit, here: float) -> Alignment:
    verdict, words = _words(pair, fit)
    shift = round(fit.shift[0]), round(fit.shift[1])
    return Alignment(
        verdict, f"condition {words}", shift, fit.orientation.name, round(fit.scale, 3), score=fit.score, here=here
    )


def _words(pair: MultiscalePair, fit: Fit) -> tuple[Verdict, str]:
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


def _box(pair: MultiscalePair, fit: Fit) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 in pixels: the part of the picture that a scaled and shifted map shows."""
    height, width = pair.picture.shape[:2]
    (x0, x1), (y0, y1) = (
        ((side - 1) / 2 * (1 - 1 / fit.scale) - moved, (side - 1) / 2 * (1 + 1 / fit.scale) - moved)
        for side, moved in zip((width, height), fit.shift)
    )
    return round(x0), round(y0), round(x1), round(y1)
