"""A pose map of unknown origin: a network looks where the map says that people are, and says how they stand there.

A detector may overlook the people who are drawn, or find others. Asked about a place, the network for one person
answers for the person who is there, whoever drew the map. A map is another picture's where neither those who are drawn
stand in the picture nor those who are found in it are drawn. Limits were read from small networks' maps of photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from condprep.annotators.openpose.bodies import SIGMAS
from condprep.images.decode import Pixels
from condprep.verification.alignment.comparison import OTHER, Alignment, described
from condprep.verification.alignment.multiscale import Fit, MultiscalePair
from condprep.verification.alignment.registration import UPRIGHT, Orientation
from condprep.verification.poses.joints import Joints, drawn_joints
from condprep.verification.poses.people import People, circles, drawn_people
from condprep.verification.poses.placement import upright_points

Points = NDArray[np.float64]  # (N, 2) x, y in pixels
# hips and circles of N people -> their bodies, (N, 18, 3), and the belief that somebody is there, (N,) 0..1
Look = Callable[[Points, Points], tuple[NDArray[np.float64], NDArray[np.float64]]]

FITS = 0.5  # share of the joints that lie where the network has them: of right maps 0.5 to 1, of others up to 0.4
SEEN = 0.45  # mean confidence from which somebody stands there: less than finds people unasked, as one is drawn there
BETTER = 1.5  # how many times more in another orientation than upright
STRANGE = 0.1  # share up to which a map is another picture's, where it fits in no orientation
CERTAIN, ENOUGH = 10, 8  # joints that tell another picture by those who are drawn, and by those who are found as well
AWAY = 1e6  # pixels to somebody who is not there
TOLERANCE, ERRORS = 3.0, 3.0  # pixels and standard errors of a shift that is none


def compare_people(picture: Pixels, stored: Pixels, found: Pixels, look: Look) -> Alignment:
    """A picture and a pose map of unknown origin, both (H, W, 3) uint8.

    found: the people whom a network finds in the picture, drawn. look: how people stand in the picture. The score, and
    what fits here, are numbers of joints; the likeness is their share.
    """
    pair = MultiscalePair(picture, stored)
    if not pair.alike:
        return Alignment("unknown", "the condition has another shape than the picture")
    people = drawn_people(pair.sized)
    apart, reach = (np.empty((0, 2)), np.empty(0)) if pair.lies else _apart(people, look)
    here = _share(apart, reach)
    if here >= FITS:
        return _shifted(pair, apart, reach)
    turned = _turned(pair, people, look, here) if len(people) else None
    return turned or _strange(
        people, here, None if pair.lies else _drawn(drawn_people(found), drawn_joints(pair.sized))
    )


def _turned(pair: MultiscalePair, people: People, look: Look, here: float) -> Alignment | None:
    """The verdict on a map that fits once it is turned or mirrored, where only the share `here` does as it lies."""
    joints = int(np.count_nonzero(people[..., 2]))
    ways = [(way, _laid(people, pair.picture.shape[:2], way)) for way in pair.orientations]
    shares = {way: _share(*_apart(laid, look)) for way, laid in ways}
    way = max(shares, key=lambda one: shares[one])
    if shares[way] < max(FITS, BETTER * here):
        return None
    return replace(described(pair, Fit(shares[way] * joints, orientation=way), here * joints), likeness=here)


def _strange(people: People, here: float, drawn: float | None) -> Alignment:
    """The verdict on a map that fits in no way. drawn: the share of those who are found, which are drawn; None: nobody is."""
    joints = int(np.count_nonzero(people[..., 2]))
    by_those_drawn = here <= STRANGE and joints >= CERTAIN
    by_those_found = drawn is not None and drawn <= STRANGE and joints >= ENOUGH
    if (drawn or 0) < FITS and (by_those_drawn or by_those_found):
        return Alignment("other picture", OTHER, score=here * joints, here=here * joints, likeness=0.0)
    return Alignment("unknown", "other people are drawn than were found", score=here * joints, here=here * joints)


def _drawn(found: People, joints: Joints) -> float | None:
    """Of the joints of those who are found, the share that are drawn where they are, 0..1; None where nobody is found."""
    there = found[..., 2] > 0
    if not there.any() or not len(joints):
        return None
    apart = np.hypot(*(found[:, :, None, :2] - joints.at).transpose(3, 0, 1, 2))  # (N, 18, J)
    apart = np.where(joints.kind == np.arange(found.shape[1])[:, None], apart, AWAY).min(-1)
    return float(np.exp(-(apart[there] ** 2) / (2 * _reach(found)[there] ** 2)).mean())


def _apart(people: People, look: Look) -> tuple[Points, NDArray[np.float64]]:
    """(J, 2) and (J,): from where each drawn joint is found to where it is drawn, and how far apart two annotators are.

    Where the network believes in nobody, its body is a guess, of which half may lie right: that person is AWAY.
    """
    if not len(people):
        return np.empty((0, 2)), np.empty(0)
    there = people[..., 2] > 0
    bodies, belief = look(*circles(people))
    apart = np.where((belief >= SEEN)[:, None, None], people - bodies, AWAY)
    return apart[there, :2], _reach(people)[there]


def _reach(people: People) -> NDArray[np.float64]:
    """(N, 18): pixels by which annotators differ about each joint, COCO's."""
    there = people[..., 2] > 0
    size = np.array([np.ptp(body[drawn, :2], axis=0).prod() ** 0.5 for body, drawn in zip(people, there)])
    return np.asarray(2 * SIGMAS * np.maximum(size, 1)[:, None])


def _share(apart: Points, reach: NDArray[np.float64]) -> float:
    """Of the joints that fit, 0..1: COCO's object keypoint similarity of what is drawn."""
    return float(np.exp(-(apart**2).sum(1) / (2 * reach**2)).mean()) if len(apart) else 0.0


def _laid(people: People, size: tuple[int, ...], way: Orientation) -> People:
    """The same once their map is turned and mirrored back."""
    laid = people.copy()
    there = people[..., 2] > 0
    laid[there, :2] = upright_points(people[there, :2], (size[0], size[1]), way)
    return laid


def _shifted(pair: MultiscalePair, apart: Points, reach: NDArray[np.float64]) -> Alignment:
    """The shift that the joints share, those the more that annotators agree on; none within its own error."""
    likeness = _share(apart, reach)
    trust = np.exp(-((apart - np.median(apart, 0)) ** 2).sum(1) / (2 * reach**2)) / reach**2
    trust /= trust.sum()
    shift = trust @ apart
    noise = float(trust @ ((apart - shift) ** 2).sum(1)) / 2
    error = (noise * float((trust**2).sum())) ** 0.5
    dx, dy, score = float(shift[0]), float(shift[1]), likeness * len(apart)
    if max(abs(dx), abs(dy)) < TOLERANCE + ERRORS * error:
        return Alignment("aligned", shift=(round(dx), round(dy)), score=score, here=score, likeness=likeness)
    return replace(described(pair, Fit(score, (dx, dy), UPRIGHT), score), likeness=likeness)
