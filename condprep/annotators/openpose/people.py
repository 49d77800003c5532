"""Candidate joints and limbs -> people, one picture at a time, by the reference's greedy rules.

The rules keep its quirk, since ControlNet was trained on what they give: where a limb from shoulder to ear connects two
people who cannot be one, the ear replaces the first one's own, counts as one more part, and the second keeps it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from condprep.annotators.openpose.keypoints import JOINTS, LIMBS, Body

STARTING_LIMBS = 17  # the last two limbs (shoulder to ear) join what is there, but never start a person
FEWEST_PARTS = 4
LEAST_MEAN = 0.4  # score a part
MISSING = -1


class Joint(NamedTuple):
    """A candidate joint: pixel and confidence."""

    x: int
    y: int
    score: float


class Limb(NamedTuple):
    """A candidate limb between two candidate joints, given by their indices."""

    first: int
    second: int
    score: float


@dataclass(slots=True, eq=False)
class Person:
    """A person being put together."""

    joints: list[int]  # 18 indices of candidate joints or MISSING
    score: float  # of the joints and limbs in it
    parts: int

    def add(self, joint: int, index: int, score: float) -> None:
        """Take a candidate as that joint, instead of whatever was there."""
        self.joints[joint] = index
        self.score += score
        self.parts += 1

    def disjoint(self, other: Person) -> bool:
        """No joint is in both."""
        return all(MISSING in pair for pair in zip(self.joints, other.joints))

    def absorb(self, other: Person, score: float) -> None:
        """Become one with a disjoint person, joined by a limb of that score."""
        self.joints = [max(pair) for pair in zip(self.joints, other.joints)]
        self.score += other.score
        self.score += score
        self.parts += other.parts


def assemble(joints: Sequence[Joint], limbs: Sequence[Sequence[Limb]]) -> list[Body]:
    """Candidate joints and, for each of the 19 limbs, its candidates -> bodies (18, 3)."""
    people: list[Person] = []
    for number, ((a, b), candidates) in enumerate(zip(LIMBS, limbs)):
        for limb in _choose(candidates):
            _join(people, a, b, limb, joints, may_start=number < STARTING_LIMBS)
    return [
        _body(person, joints)
        for person in people
        if person.parts >= FEWEST_PARTS and person.score / person.parts >= LEAST_MEAN
    ]


def _choose(candidates: Sequence[Limb]) -> list[Limb]:
    """The best limb first, each joint in one limb at most; of equals, the one listed first."""
    firsts: set[int] = set()
    seconds: set[int] = set()
    chosen = []
    for limb in sorted(candidates, key=lambda limb: limb.score, reverse=True):
        if limb.first not in firsts and limb.second not in seconds:
            chosen.append(limb)
            firsts.add(limb.first)
            seconds.add(limb.second)
    return chosen


def _join(people: list[Person], a: int, b: int, limb: Limb, joints: Sequence[Joint], may_start: bool) -> None:
    """Give a limb from joint a to joint b to the person or the two people that it touches, or start a person."""
    score = joints[limb.second].score + limb.score
    # Three are impossible: joint b is new to all people but in the last two limbs, and a joint is in one limb of a kind.
    match [person for person in people if person.joints[a] == limb.first or person.joints[b] == limb.second]:
        case [first, second] if first.disjoint(second):
            first.absorb(second, limb.score)
            people.remove(second)
        case [first, _]:
            first.add(b, limb.second, score)
        case [only] if only.joints[b] != limb.second:
            only.add(b, limb.second, score)
        case [] if may_start:
            person = Person([MISSING] * len(JOINTS), score=0.0, parts=0)
            person.add(a, limb.first, joints[limb.first].score)
            person.add(b, limb.second, score)
            people.append(person)


def _body(person: Person, joints: Sequence[Joint]) -> Body:
    missing = Joint(0, 0, 0)
    return np.array([missing if i == MISSING else joints[i] for i in person.joints], np.float32)
