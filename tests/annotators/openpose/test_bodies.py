"""Bodies of networks for one person: OpenPose's joints, how alike two are, who is told apart, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest

from condprep.annotators.openpose.bodies import SIGMAS, belief, distinct, from_coco, similarity, visible


def body(shift: float = 0, confidence: float = 0.6) -> np.ndarray:
    """Joints spread over 100 x 100 pixels, (18, 3)."""
    places = np.random.default_rng(1).uniform(0, 100, (18, 2)) + np.array([shift, 0])
    return np.column_stack([places, np.full(18, confidence)])


def test_the_neck_is_the_middle_of_the_shoulders() -> None:
    """As sure as the less sure of both. The other joints are COCO's in OpenPose's order; left and right stay the person's."""
    points = np.arange(60.0).reshape(1, 20, 3)
    [found] = from_coco(points)
    assert found[1].tolist() == [16.5, 17.5, 17.0]
    assert found[2].tolist() == points[0, 6].tolist()  # the right shoulder
    assert found[13].tolist() == points[0, 15].tolist()  # the left ankle


def test_joints_unseen_or_outside_are_missing() -> None:
    """Confidence of the threshold and less, or a place outside of the picture's pixels, gives 0, 0, 0; the others are kept."""
    one = np.tile([[10.0, 10.0, 0.9]], (1, 18, 1))
    one[0, :4] = [10, 10, 0.3], [-0.6, 10, 0.9], [10, 19.5, 0.9], [19.4, -0.5, 0.9]
    seen = visible(one, 20, 20, 0.3)[0]
    assert seen.dtype == np.float32
    assert seen[:3].tolist() == [[0, 0, 0]] * 3
    assert seen[3:].astype(float) == pytest.approx(one[0, 3:])


def test_similarity_is_cocos() -> None:
    """1 for the same body; exp(-1/2) where every joint is off by 2 sigma of the body's size; 0 far away."""
    one = body()
    size = np.sqrt((one[:, :2].max(0) - one[:, :2].min(0)).prod())
    off = one.copy()
    off[:, 0] += 2 * SIGMAS * size
    assert similarity(one, one) == 1
    assert similarity(one, off) == pytest.approx(np.exp(-0.5))
    assert similarity(one, one + np.array([1e4, 0, 0])) < 1e-6


def test_people_are_told_apart_and_phantoms_left_out() -> None:
    """The same pose twice is one person, the surer, in one picture; whose five surest joints are not believed is nobody."""
    phantom = body(600, 0.1)
    phantom[:4, 2] = 0.5
    found = np.stack([body(), body(confidence=0.7), body(300), phantom, body()])
    assert belief(found) == pytest.approx([0.6, 0.7, 0.6, 0.42, 0.6])
    assert distinct(np.array([0, 0, 0, 0, 1]), found).tolist() == [1, 2, 4]
    assert distinct(np.zeros(0, int), found[:0]).tolist() == []
