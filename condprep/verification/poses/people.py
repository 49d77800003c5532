"""The people of a pose map, one by one, and where a network has to look to find them in the picture.

Which joints are one person's is drawn: limbs have colours of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from condprep.annotators.openpose.draw import COLOURS, DRAWN_LIMBS
from condprep.annotators.openpose.keypoints import JOINTS
from condprep.images.decode import Pixels
from condprep.verification.poses.joints import Joints, drawn_joints

Points = NDArray[np.float64]  # (..., 2) x, y in pixels
People = NDArray[np.float64]  # (N, 18, 3): x, y in pixels and 1 of the joints of each, 0, 0, 0 where one is not drawn

FEWEST = 5  # joints of a person who can be looked for
CLOSE = 25  # levels by which a channel may differ from a limb's colour: half of what those of two differ
SEEN = 0.5  # share of a limb that must be seen: people cover each other
ALONG = np.linspace(0.2, 0.8, 9)[:, None]  # parts of a limb that are looked at, clear of its joints

NOSE, NECK, SHOULDERS, HIPS = 0, 1, [2, 5], [8, 11]
# Of a body's proportions: the trunk, from the neck to the middle of the hips, is about so many times ...
OF_SHOULDERS, OF_HEAD = 1.5, 2.0  # ... the width of the shoulders, and the way from the nose to the neck
REACH = 1.8  # trunks from the hips to the feet
AROUND = 1.1  # times the way from the hips to the furthest joint: the circle around the body


def drawn_people(drawn: Pixels) -> People:
    """The people of a drawing, (H, W, 3) uint8 RGB on black, those of FEWEST joints and more."""
    joints = drawn_joints(drawn)
    bonds = _bonds(drawn, joints) if len(joints) else []
    people = [group for group in _groups(joints, bonds) if len(group) >= FEWEST]
    bodies = np.zeros((len(people), len(JOINTS), 3))
    for body, group in zip(bodies, people):
        body[joints.kind[group]] = np.column_stack([joints.at[group], np.ones(len(group))])
    return bodies


def _bonds(drawn: Pixels, joints: Joints) -> list[tuple[int, int]]:
    """Pairs of joints between which a limb is drawn, those first of which most is seen."""
    found = []
    for (a, b), colour in zip(DRAWN_LIMBS, COLOURS):
        starts, ends = np.flatnonzero(joints.kind == a), np.flatnonzero(joints.kind == b)
        here, there = joints.at[starts][:, None, None], joints.at[ends][None, :, None]
        x, y = np.rint(here + (there - here) * ALONG).astype(np.intp).transpose(3, 0, 1, 2)
        limb = np.array(colour) * 3 // 5
        share = (np.abs(drawn[y, x].astype(np.int16) - limb).max(-1) <= CLOSE).mean(-1)
        found += [(-share[i, j], starts[i], ends[j]) for i, j in np.argwhere(share >= SEEN)]
    return [(int(start), int(end)) for _, start, end in sorted(found)]


def _groups(joints: Joints, bonds: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Joints that belong together, none of them twice of a kind."""
    group = {joint: [joint] for joint in range(len(joints))}
    for start, end in bonds:
        one, other = group[start], group[end]
        if one is not other and not set(joints.kind[one]) & set(joints.kind[other]):
            one += other
            group.update(dict.fromkeys(other, one))
    return list({id(one): one for one in group.values()}.values())


def circles(people: People) -> tuple[Points, Points]:
    """(N, 2) each: the middle of everybody's hips, and the point above it on the circle around the whole body.

    Of somebody who is cut off, where both would about be.
    """
    hips, tops = zip(*map(_circle, people))
    return np.array(hips), np.array(tops)


def _circle(body: NDArray[np.float64]) -> tuple[Points, Points]:
    there = body[:, 2] > 0
    trunk = _trunk(body, there)
    points = body[there, :2]
    hips = body[HIPS][there[HIPS], :2]
    elsewhere = body[NECK, :2] - trunk if there[NECK] else points.mean(0)
    hip = hips.mean(0) if len(hips) else elsewhere
    up = (body[NECK, :2] - hip) if there[NECK] else trunk
    length = max(float(np.hypot(*up)), 1.0)
    radius = max(AROUND * float(np.hypot(*(points - hip).T).max()), REACH * length)
    return hip, hip + up / length * radius


def _trunk(body: NDArray[np.float64], there: NDArray[np.bool_]) -> Points:
    """(2,): about the way from the hips to the neck, of somebody whose hips may not be drawn."""
    shoulders = body[SHOULDERS, :2]
    width = float(np.hypot(*(shoulders[0] - shoulders[1]))) if there[SHOULDERS].all() else 0.0
    if there[NOSE] and there[NECK]:
        up = body[NOSE, :2] - body[NECK, :2]
        length = max(OF_HEAD * float(np.hypot(*up)), OF_SHOULDERS * width)
        return np.asarray(up / max(float(np.hypot(*up)), 1e-9) * length)
    tall = float(np.ptp(body[there, 1]))
    return np.array([0.0, -max(OF_SHOULDERS * width, tall / 2, 1.0)])
