"""The keypoints column and the drawing of bodies, with controlnet_aux as oracle."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from support.openpose_reference import Reference
from support.thorough import share

from condprep.annotators.openpose.draw import draw_bodies
from condprep.annotators.openpose.keypoints import KEYPOINTS, Body, Pose, bodies, column_value


def random_people(rng: np.random.Generator, height: int, width: int, whole: bool) -> list[Body]:
    """A few bodies with joints in the picture or a little outside, some of them missing."""
    people = rng.uniform((-5, -5, 0.01), (width + 5, height + 5, 1), (rng.integers(0, 5), 18, 3))
    if whole:
        people[..., :2] = rng.integers(0, (width, height), (*people.shape[:2], 2))
    people *= rng.random(people.shape[:2])[..., None] < rng.uniform(0.2, 1)
    return list(people.astype(np.float32))


seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=share(100), deadline=None)
@given(seeds, st.integers(1, 300), st.integers(1, 300), st.booleans())
def test_bodies_are_drawn_as_the_reference_draws_them(rng, height, width, whole):
    """Any bodies, in pictures of any size, give the reference's map byte for byte."""
    people = random_people(rng, height, width, whole)
    expected = Reference.draw(people, height, width)
    assert np.array_equal(draw_bodies(people, height, width), expected)


def test_nobody_gives_a_black_map_and_no_people():
    """Nobody in the picture: all black, and an empty list in the column."""
    assert draw_bodies([], 3, 5).shape == (3, 5, 3)
    assert not draw_bodies([], 3, 5).any()
    assert column_value([]) == {"people": []}


def test_a_missing_joint_and_its_limbs_are_not_drawn():
    """Only joints that are there leave colour: a body of missing joints leaves none, one joint leaves its own."""
    body = np.zeros((18, 3), np.float32)
    assert not draw_bodies([body], 40, 40).any()
    body[0] = 20, 20, 0.5
    assert set(map(tuple, draw_bodies([body], 40, 40).reshape(-1, 3))) == {(0, 0, 0), (255, 0, 0)}


@settings(max_examples=share(50), deadline=None)
@given(seeds)
def test_bodies_survive_the_column_and_json(rng):
    """Bodies come back bit for bit from an Arrow column and from JSON text in OpenPose's layout."""
    people = random_people(rng, 200, 300, whole=False)
    value = column_value([Pose(body) for body in people])
    [stored] = pa.array([value], KEYPOINTS).to_pylist()
    for kept in (stored, json.loads(json.dumps(value))):
        back = bodies(kept)
        assert len(back) == len(people)
        assert all(np.array_equal(a, b) for a, b in zip(back, people))
