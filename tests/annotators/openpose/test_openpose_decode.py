"""Network maps -> people, with controlnet_aux's decoder as oracle: real maps, drawn ones, noise and corner cases."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.openpose_crowds import STANDING, maps, random_people
from support.openpose_dm14 import PEOPLE
from support.openpose_reference import Reference, evenly
from support.thorough import examples

from condprep.annotators.openpose.decode import decode_poses
from condprep.annotators.openpose.keypoints import LIMBS, Body
from condprep.annotators.openpose.operators import Frame, operators
from condprep.annotators.openpose.peaks import MOST_PEAKS, PAF_OF_LIMB, Peaks, find_peaks
from condprep.annotators.openpose.people import Joint, Limb, assemble


def assert_same_people(ours: list[Body], theirs: list[Body]) -> None:
    """As many people in the same order, joints within 0.01 px, confidences within 1e-4."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        difference = abs(a - b).max(0)
        assert difference[:2].max() <= 0.01
        assert difference[2] <= 1e-4


def check(rng: np.random.Generator, frame: Frame, people: np.ndarray, noise: float) -> int:
    """Compare both decoders on the maps of these people; the number of people found."""
    heatmaps, pafs = maps(rng, people, frame, noise)
    [ours] = decode_poses(heatmaps, pafs, frame)
    assert_same_people(ours, Reference(lambda _: (heatmaps, pafs))(np.zeros((*frame.picture, 3), np.uint8)))
    return len(ours)


crowds = given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(40, 250), st.integers(40, 250)),
    count=st.integers(0, 12),
    noise=st.sampled_from([0.0, 0.02, 0.1]),
)


def check_crowd(seed: int, size: tuple[int, int], count: int, noise: float) -> None:
    frame = Frame.of(*size, 184)
    rng = np.random.default_rng(seed)
    check(rng, frame, random_people(rng, count), noise)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@crowds
def test_random_crowds(seed, size, count, noise):
    """In crowds that overlap, hide joints and are drowned in noise, both decoders find the same people."""
    check_crowd(seed, size, count, noise)


@pytest.mark.slow
@settings(max_examples=examples(12, 1000), deadline=None)
@crowds
def test_more_random_crowds(seed, size, count, noise):
    """As above, and other ones in every run."""
    check_crowd(seed, size, count, noise)


def test_the_reference_s_own_places_are_what_ours_are_held_to():
    """Laid out as the tests have it done, the places along a limb are those that the reference alone looks at."""
    for first, last in np.random.default_rng(0).integers(0, 250, (1000, 2)):
        assert evenly(first, last, num=10) == np.linspace(first, last, num=10).tolist()
        assert [round(place) for place in evenly(first, last, 10)] == [round(x) for x in np.linspace(first, last, 10)]


@pytest.mark.slow
@pytest.mark.skipif(not PEOPLE.is_dir(), reason=f"no annotated people in {PEOPLE}")
@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_annotated_people(noise):
    """On maps drawn from the people whom humans marked in real pictures, both decoders agree, and find some."""
    truth = json.loads((PEOPLE / "test_coco.json").read_text())
    rng = np.random.default_rng(0)
    found = 0
    for picture in truth["images"]:
        size = picture["height"], picture["width"]
        marked = [a["keypoints"] for a in truth["annotations"] if a["image_id"] == picture["id"]]
        people = np.array([from_coco(keypoints) for keypoints in marked])
        people += rng.uniform(-0.4, 0.4, people.shape)  # whole ones lie midway between two pixels: a tie
        people /= size[::-1]
        found += check(rng, Frame.of(*size, 184), people, noise)
    assert found >= 4


def from_coco(keypoints: list[float]) -> np.ndarray:
    """COCO's 17 keypoints (x, y, visibility) -> OpenPose's 18 (x, y), NaN where not marked; the neck between shoulders."""
    points = np.array(keypoints, float).reshape(17, 3)
    points[points[:, 2] == 0] = np.nan
    neck = points[5:7].mean(0)
    order = [6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    return np.vstack([points[:1], neck, points[order]])[:, :2]


def test_a_picture_does_not_depend_on_its_batch():
    """Crowds decoded together are, bit for bit, the crowds decoded alone."""
    rng = np.random.default_rng(5)
    frame = Frame.of(120, 160, 184)
    crowd = [maps(rng, random_people(rng, count), frame, 0.02) for count in (0, 5, 1, 9)]
    together = decode_poses(torch.cat([h for h, _ in crowd]), torch.cat([p for _, p in crowd]), frame)
    for (heatmaps, pafs), bodies in zip(crowd, together, strict=True):
        assert np.array_equal(decode_poses(heatmaps, pafs, frame)[0], bodies)


@pytest.mark.slow
def test_people_cut_off_upside_down_and_lying():
    """Of people who leave the picture at each side, stand on their heads or lie, both decoders find the same, and most."""
    moved = [STANDING * 0.4 + place for place in ((-0.1, 0.3), (0.7, 0.3), (0.3, -0.1), (0.3, 0.75))]
    turned = [(1 - STANDING) * 0.4 + (0.05, 0.55), STANDING[:, ::-1] * 0.4 + (0.55, 0.05)]
    rng = np.random.default_rng(2)
    for people in (np.array(moved), np.array(turned)):
        people += rng.uniform(-0.01, 0.01, people.shape)  # as they are, joints lie midway between two pixels: a tie
        assert check(rng, Frame.of(90, 120, 184), people, 0.0) >= 2


@pytest.mark.parametrize("size", [(1, 60), (60, 1), (1, 1)])
def test_people_in_a_picture_of_one_row(size):
    """Whoever a network sees there, no joint lies outside, and both decoders agree."""
    frame, rng = Frame.of(*size, 184), np.random.default_rng(3)
    [bodies] = decode_poses(*maps(rng, random_people(rng, 4), frame, 0.0), frame)
    joints = np.concatenate([*(body[body[:, 2] > 0] for body in bodies), np.zeros((1, 3))])[:, :2]
    assert (joints >= 0).all()
    assert (joints <= (size[1], size[0])).all()


@pytest.mark.slow
def test_two_hundred_people():
    """As many as there are peaks for are found, the same bits alone as beside a picture of one; what is beyond is left out."""
    rng, frame = np.random.default_rng(4), Frame.of(184, 368, 184)
    corners = np.stack(np.meshgrid(np.arange(20) / 20, np.arange(10) / 10), 2).reshape(-1, 1, 2)
    many, one = (maps(rng, people, frame, 0.0) for people in (STANDING / (22, 11) + corners, STANDING[None] * 0.5))
    together = decode_poses(torch.cat([many[0], one[0]]), torch.cat([many[1], one[1]]), frame)
    assert MOST_PEAKS // 2 < len(together[0]) <= 2 * MOST_PEAKS
    assert len(together[1]) == 1
    assert np.array_equal(decode_poses(*many, frame)[0], together[0])


def test_nobody():
    """Empty maps hold nobody, in every picture of the batch."""
    frame = Frame.of(50, 70, 184)
    assert decode_poses(torch.zeros(2, 19, *frame.cells), torch.zeros(2, 38, *frame.cells), frame) == [[], []]


def test_what_is_left_out_holds_no_peak():
    """Looking only where a peak can be finds the peaks that looking everywhere finds."""
    rng = np.random.default_rng(7)
    frame = Frame.of(300, 200, 184)
    heatmaps, _ = maps(rng, random_people(rng, 6), frame, 0.1)
    matrices = operators(frame, "cpu")
    smooth = matrices.smooth[0] @ heatmaps[0, :18].double() @ matrices.smooth[1].T
    low = torch.nn.functional.pad(smooth, (1, 1, 1, 1))
    sides = [low[:, :-2, 1:-1], low[:, 2:, 1:-1], low[:, 1:-1, :-2], low[:, 1:-1, 2:]]
    everywhere = torch.stack([smooth > 0.1] + [smooth >= side for side in sides]).all(0).nonzero()
    assert places(find_peaks(heatmaps, matrices)) == [tuple(place) for place in everywhere.tolist()]


@pytest.mark.slow
def test_only_the_strongest_peaks_are_kept(monkeypatch):
    """Where noise has more peaks of a joint than the limit, those of the largest smoothed values stay, in their order."""
    frame = Frame.of(184, 184 * 4, 184)
    heatmaps = torch.rand(2, 19, *frame.cells, generator=torch.Generator().manual_seed(0))
    heatmaps[0, 3] *= heatmaps[0, 3] > 0.97
    matrices = operators(frame, "cpu")
    kept = places(find_peaks(heatmaps, matrices))
    monkeypatch.setattr("condprep.annotators.openpose.peaks.MOST_PEAKS", 10**9)
    everything = places(find_peaks(heatmaps, matrices))
    smooth = (matrices.smooth[0] @ heatmaps[:, :18].double() @ matrices.smooth[1].T).flatten(0, 1)
    expected = []
    for group in range(36):
        ranked = sorted((place for place in everything if place[0] == group), key=lambda place: -smooth[place])
        expected += sorted(ranked[:MOST_PEAKS])
    assert len(expected) < len(everything)
    assert kept == expected


def places(peaks: Peaks) -> list[tuple[int, int, int]]:
    return list(zip(peaks.group.tolist(), peaks.y.tolist(), peaks.x.tolist()))


def test_an_ear_that_two_people_claim():
    """A limb between two whole people gives its ear to the first, in place of their own, and the second keeps it too."""
    joints = [Joint(i + 1, 1, 1.0) for i in range(36)]
    limbs = [[Limb(a, b, 1.0), Limb(a + 18, b + 18, 1.0)] if n < 17 else [] for n, (a, b) in enumerate(LIMBS)]
    limbs[17] = [Limb(2, 18 + 16, 1.0)]
    first, second = assemble(joints, limbs)
    assert first[:, 0].tolist() == [*range(1, 17), 18 + 17, 18]
    assert second[:, 0].tolist() == list(range(19, 37))


def test_a_head_and_a_body_become_one():
    """Two people without a joint in common that a limb from shoulder to ear connects are one."""
    joints = [Joint(i + 1, 1, 1.0) for i in range(18)]
    limbs = [[Limb(a, b, 1.0)] if n not in (12, 18) else [] for n, (a, b) in enumerate(LIMBS)]
    [body] = assemble(joints, limbs)
    assert body[:, 0].tolist() == list(range(1, 19))
    limbs[17] = []
    assert len(assemble(joints, limbs)) == 2


def test_limbs_from_shoulder_to_ear_start_nobody():
    """A person of shoulder-to-ear limbs alone does not exist; with any other limbs they add an ear."""
    joints = [Joint(i + 1, 1, 1.0) for i in range(18)]
    limbs = [[Limb(a, b, 1.0)] if number >= 17 else [] for number, (a, b) in enumerate(LIMBS)]
    assert assemble(joints, limbs) == []
    limbs[0], limbs[1], limbs[2] = ([Limb(*LIMBS[i], 1.0)] for i in range(3))
    [body] = assemble(joints, limbs)
    assert body[16].any()
    assert body[17].any()


def test_every_limb_has_its_own_pair_of_fields():
    """The 19 limbs read 38 different maps."""
    assert sorted(sum(PAF_OF_LIMB, ())) == list(range(38))
