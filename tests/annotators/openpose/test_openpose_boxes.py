"""The squares in which hands and faces are looked for, with controlnet_aux's as oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.openpose_reference import part_of_the_reference
from support.thorough import share

from condprep.annotators.openpose.boxes import SMALLEST, Box, face_box, hand_box
from condprep.annotators.openpose.keypoints import Body


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Body, int, int]:
    """A body with joints on whole pixels of a picture, some of them missing, and the picture's height and width."""
    height, width = draw(st.integers(30, 600)), draw(st.integers(30, 600))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([10, 40, 200, 600]))
    centre = rng.integers(0, (width, height))
    places = np.clip(centre + rng.integers(-spread, spread + 1, (18, 2)), 0, (width - 1, height - 1))
    body = np.column_stack([places, rng.uniform(0.1, 1, 18)]).astype(np.float32)
    body[rng.random(18) < draw(st.sampled_from([0.0, 0.2]))] = 0
    return body, height, width


def reference_body(body: Body):
    util = part_of_the_reference("util")
    points = [util.Keypoint(x, y, score) if score else None for x, y, score in body.astype(float)]
    return util.BodyResult(points, 1.0, 1)


@settings(max_examples=share(500), deadline=None)
@given(bodies())
def test_hands_are_looked_for_where_the_reference_looks(given):
    """Any body, whole or not, anywhere in the picture: the same squares for the same hands."""
    body, height, width = given
    expected = part_of_the_reference("util").handDetect(reference_body(body), np.empty((height, width, 3)))
    ours = {"left": hand_box(body, "left", height, width), "right": hand_box(body, "right", height, width)}
    assert {side: box for side, box in ours.items() if box} == {
        "left" if is_left else "right": Box(x, y, side) for x, y, side, is_left in expected
    }


@pytest.mark.slow
@settings(max_examples=share(500), deadline=None)
@given(bodies())
def test_faces_are_looked_for_where_the_reference_looks(given):
    """Any head, whole or not, anywhere in the picture: the same square, or none."""
    body, height, width = given
    expected = part_of_the_reference("util").faceDetect(reference_body(body), np.empty((height, width, 3)))
    assert face_box(body, height, width) == (Box(*expected) if expected else None)


@settings(max_examples=share(500), deadline=None)
@given(bodies())
def test_no_square_is_empty(given):
    """What is cut out has pixels in both directions; a hand is a whole square of at least 20 pixels."""
    body, height, width = given
    picture = torch.empty(3, height, width)
    for side in ("left", "right"):
        if box := hand_box(body, side, height, width):
            assert box.side >= SMALLEST
            assert box.cut(picture).shape == (3, box.side, box.side)
    if box := face_box(body, height, width):
        assert min(box.cut(picture).shape) > 0


def test_a_box_moves_points_and_leaves_missing_ones():
    """Points found in a square are put into the picture; a missing one stays 0, 0, 0."""
    points = np.array([(1, 2, 0.5), (0, 0, 0)], np.float32)
    assert Box(30, 40, 20).place(points).tolist() == [[31, 42, 0.5], [0, 0, 0]]
