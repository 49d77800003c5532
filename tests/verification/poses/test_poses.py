"""Poses: joints are read from drawings, small shifts are told, and what two annotators disagree about is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.datasets import written_poses
from support.drawings import body, drawn, photo, shifted
from support.openpose_dm14 import DM14, FOLDER, HEIGHT, PEOPLE
from support.pictures import encoded
from support.remembering import Remembering
from support.thorough import share

import condprep
from condprep.annotators.openpose.annotator import Openpose
from condprep.annotators.openpose.draw import draw_bodies, draw_poses
from condprep.annotators.openpose.keypoints import Pose
from condprep.verification import reannotate
from condprep.verification.alignment.comparison import Lean
from condprep.verification.alignment.registration import FLIPS, TURNS, UPRIGHT, Orientation, unscaled
from condprep.verification.alignment.shared_shift import SharedShift, median
from condprep.verification.poses.comparison import compare_poses
from condprep.verification.poses.joints import Joints, drawn_joints, limb
from condprep.verification.poses.placement import Overlay, upright_points
from condprep.weights.find import Weights

TWO_PEOPLE = ((170, 260, 330), (380, 300, 240))


def bodies(*people: tuple[float, ...], noise: float = 0.0, seed: int = 0) -> list[np.ndarray]:
    """Bodies as `drawn` draws them, each joint off by `noise` pixels (standard deviation)."""
    rng, found = np.random.default_rng(seed), [body(*person) for person in people]
    for person in found:
        person[:, :2] += rng.normal(0, noise, (18, 2))
    return found


def again_with(noise: float, seed: int = 0) -> np.ndarray:
    """TWO_PEOPLE as an annotator may find them again."""
    return draw_bodies(bodies(*TWO_PEOPLE, noise=noise, seed=seed), 512, 512)


# ---- joints


def test_the_joints_of_a_drawing_are_read() -> None:
    """Every joint of people apart is found as itself, to the pixel: those that nothing covers exactly."""
    people = bodies((170, 260, 330), (400, 300, 240))
    joints = drawn_joints(draw_bodies(people, 512, 512))
    assert np.bincount(joints.kind).tolist() == [2] * 18
    for kind in range(18):
        expected = sorted(np.floor(person[kind, :2]).tolist() for person in people)
        np.testing.assert_allclose(sorted(joints.at[joints.kind == kind].tolist()), expected, atol=1.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: cv2.imdecode(cv2.imencode(".jpg", m, [cv2.IMWRITE_JPEG_QUALITY, 90])[1], cv2.IMREAD_COLOR),
        lambda m: cv2.resize(cv2.resize(m, (768, 768)), (512, 512), interpolation=cv2.INTER_AREA),
    ],
    ids=["jpeg", "resampled"],
)
def test_damaged_drawings_keep_most_joints(change: Callable[[np.ndarray], np.ndarray]) -> None:
    """After a JPEG or a resampling two thirds of the joints and more are still read, within a pixel."""
    clean, joints = drawn_joints(drawn(*TWO_PEOPLE)), drawn_joints(change(drawn(*TWO_PEOPLE)))
    apart = np.linalg.norm(joints.at[:, None] - clean.at, axis=2) + 1000 * (joints.kind[:, None] != clean.kind)
    assert np.sum(apart.min(1) <= 1) >= 24


def test_hands_are_no_knees() -> None:
    """The points of hands have the colour of a knee; where there are hands, it is not read as one."""
    person = body(256, 256, 400)
    hand = np.column_stack([np.linspace(100, 180, 21), np.linspace(60, 140, 21), np.ones(21)]).astype(np.float32)
    joints = drawn_joints(draw_poses([Pose(person, hand, hand + np.float32([200, 0, 0]))], 512, 512))
    assert np.sum(joints.kind == 12) == 0
    assert len(joints) >= 15


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (64, 64), (300, 200, 3)])
def test_what_is_no_drawing_has_no_joints(shape: tuple[int, ...]) -> None:
    """Grey pictures, noise, and more discs than there can be people give none, or a bounded number."""
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert len(drawn_joints(noise)) == 0
    sheet = np.zeros((512, 512, 3), np.uint8)
    sheet[4::8, 4::8] = 255, 0, 0
    assert len(drawn_joints(cv2.dilate(sheet, np.ones((5, 5), np.uint8)))) == 0


def test_the_length_of_limbs_is_that_of_people() -> None:
    """The typical limb of somebody twice as tall is twice as long; faces alone have none."""
    small, large = (limb(drawn_joints(drawn((256, 256, size)))) for size in (180, 360))
    assert large == pytest.approx(2 * small, rel=0.1)
    assert limb(Joints(np.array([0, 14, 15]), np.zeros((3, 2)))) == 0


# ---- placement


@pytest.mark.parametrize("orientation", [UPRIGHT, *FLIPS, *TURNS], ids=lambda o: o.name or "upright")
def test_points_are_turned_as_pictures_are(orientation: Orientation) -> None:
    """Undoing an orientation on points is what turning the picture back does to its pixels, whatever its shape."""
    picture = np.zeros((5, 9), np.uint8)
    picture[1, 7] = 1
    stored = np.rot90(picture[:, ::-1] if orientation.mirrored else picture, orientation.quarters)
    y, x = np.argwhere(stored)[0]
    assert upright_points(np.array([[x, y]], float), (5, 9), orientation).tolist() == [[7, 1]]


@settings(max_examples=25, deadline=None)
@given(st.integers(-60, 60), st.integers(-60, 60), st.sampled_from([0.9, 1.0, 1.1]))
def test_a_placement_is_found(dx: int, dy: int, scale: float) -> None:
    """However joints were scaled and shifted, all of them fit at the shift that undoes it, and nowhere better."""
    joints = drawn_joints(drawn(*TWO_PEOPLE))
    centre = np.array([511, 511]) / 2
    moved = Joints(joints.kind, (joints.at - centre + np.array([dx, dy])) * scale + centre)
    best = Overlay(joints, moved, (512, 512), 3).best(scale=scale)
    assert best.shift == pytest.approx((dx, dy), abs=0.5)
    assert best.fitting == pytest.approx(len(joints), rel=0.05)


# ---- the verdict


@pytest.mark.parametrize("seed", range(5))
def test_two_pixels_are_told_of_one_annotator(seed: int) -> None:
    """Where joints are off by a pixel each, a shift of 2 px and a scale of 2 % are told, and none where there is none."""
    found, stored = again_with(0.6, seed), drawn(*TWO_PEOPLE)
    assert compare_poses(found, stored, own=True).verdict == "aligned"
    moved = compare_poses(found, shifted(stored, 0, -2), own=True)
    assert (moved.verdict, moved.shift[1]) == ("shifted", pytest.approx(-2, abs=1))
    scaled = compare_poses(found, unscaled(stored, 1.02), own=True)
    assert (scaled.verdict, scaled.scale) == ("scaled", pytest.approx(1 / 1.02, abs=0.006))


def test_a_wobble_is_allowed_for() -> None:
    """An annotator that is known to move people by 3 px has only larger shifts told."""
    found = drawn(*TWO_PEOPLE)
    told = [compare_poses(found, shifted(found, by, 0), own=True, wobble=3.0).verdict for by in (3, 6)]
    assert told == ["aligned", "shifted"]


def test_one_person_of_two_does_not_move_the_map() -> None:
    """A person that only one of two looks found changes nothing for the other."""
    found = drawn(TWO_PEOPLE[0])
    assert compare_poses(found, drawn(*TWO_PEOPLE), own=True).verdict == "aligned"
    assert compare_poses(found, shifted(drawn(*TWO_PEOPLE), 4, 0), own=True).shift == (4, 0)


def test_a_mirrored_person_in_the_middle_is_flipped() -> None:
    """Somebody who faces us in the middle looks the same mirrored, but for left and right: those tell."""
    person = body(255.5, 256, 360, lean=0)
    person[4:5], person[7:8] = person[7:8] * (1, 1, 1), person[4:5] * (1, 1, 1)
    found = draw_bodies([person], 512, 512)
    assert compare_poses(found, np.ascontiguousarray(found[:, ::-1])).verdict == "flipped"


@pytest.mark.slow
def test_other_colours_are_compared_as_drawings() -> None:
    """A drawing without a known joint is aligned or moved where it is the very same, else nothing is said."""
    found = drawn(*TWO_PEOPLE) // 2
    assert compare_poses(found, shifted(found, 4, 0)).shift == (4, 0)
    assert compare_poses(drawn(*TWO_PEOPLE), drawn((120, 330, 200, -0.4)) // 2).verdict == "unknown"


# ---- the shift that all share


@settings(max_examples=share(50), deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=60))
def test_the_interval_holds_the_median(values: list[int]) -> None:
    """The median is numpy's, and lies within its interval, which mirrors as the values do."""
    found, mirrored = median(np.array(values)), median(-np.array(values))
    assert found.low <= found.value == np.median(values) <= found.high
    assert (mirrored.low, mirrored.high) == (-found.high, -found.low)


def test_the_interval_is_one_of_95_percent() -> None:
    """Of 400 samples the true median lies in the interval of 93 % or more."""
    samples = np.random.default_rng(0).standard_t(2, (400, 101))
    assert np.mean([one.low <= 0 <= one.high for one in map(median, samples)]) >= 0.93


def surveyed(shifts: np.ndarray, by: str = "made again") -> list[tuple[int, str]]:
    survey = SharedShift()
    survey.add({"alignment": "aligned", "compared_with": "picture", "shift_x": 0, "shift_y": 0, "lean": None})
    for x, y in shifts.tolist():
        survey.add({"alignment": "aligned", "compared_with": by, "shift_x": x, "shift_y": y, "lean": None})
    return list(survey.finish())


def test_a_shared_shift_is_told_though_no_row_shows_it() -> None:
    """Rows that wobble by 2 px each tell a shift of 2 px together, at the first row that was compared; without it, nothing."""
    wobble = np.rint(np.random.default_rng(0).normal(0, 2, (200, 2))).astype(int)
    ((row, reason),) = surveyed(wobble + np.array([2, 0]))
    assert row == 1
    assert "(+2, 0) px" in reason
    assert "over 200 rows" in reason
    assert surveyed(wobble) == []
    assert surveyed(wobble[:19] + 9) == []


def leaning(lie: np.ndarray, finest: float = 1.25) -> list[str]:
    """What the survey says of rows that were compared with their pictures: x, y, scale each."""
    survey = SharedShift()
    for x, y, scale in lie.tolist():
        survey.add({"alignment": "aligned", "compared_with": "picture", "lean": Lean(x, y, scale, finest)})
    return [reason for _, reason in survey.finish()]


@settings(max_examples=share(50), deadline=None)
@given(st.integers(5, 500), st.floats(-0.8, 0.8), st.floats(-0.8, 0.8), st.integers(0, 2**32 - 1))
def test_right_maps_share_nothing(rows: int, x: float, y: float, seed: int) -> None:
    """5 to 500 rows that lean by less than a pixel, and wobble by half a one and by half a percent, are no finding."""
    rng = np.random.default_rng(seed)
    wobble = rng.standard_t(3, (rows, 3)) * [0.25, 0.25, 0.0025]
    assert leaning(wobble + np.array([x, y, 1])) == []


def test_pictures_tell_what_their_maps_share() -> None:
    """Two pixels, or 1.5 %, shared by rows that wobble by half as much, and what puts them right; not in 19 rows, nor where
    more than that is not sure."""
    wobble = np.random.default_rng(0).normal(0, 1, (200, 3)) * [1, 1, 0.0075]
    (moved,), (scaled,) = leaning(wobble + np.array([2, 0, 1])), leaning(wobble + np.array([0, 0, 1.015]))
    assert "shifted by (+" in moved
    assert "moved by (-" in moved
    assert "scaled" not in moved
    assert "scaled by 1.01" in scaled
    assert "shifted" not in scaled
    assert leaning(wobble[:19] + np.array([2, 0, 1.03])) == []
    assert leaning(wobble + np.array([2, 0, 1]), finest=2.5) == []


def test_two_annotators_share_a_shift_only_from_three_pixels_on() -> None:
    """They mean other places by the same joint, so 2 px are none between them."""
    wobble = np.rint(np.random.default_rng(0).normal(0, 2, (200, 2))).astype(int)
    assert surveyed(wobble + np.array([2, 0]), "other poses") == []
    assert len(surveyed(wobble + np.array([0, -5]), "other poses")) == 1


# ---- through verify


def test_a_pose_of_nobody_is_a_warning_alone(tmp_path: Path) -> None:
    """A black map in a column of poses is legal: `nobody` warns of it, and nothing else; a white one is still constant."""
    picture = encoded(photo("coffee"), "PNG")
    maps = [drawn(*TWO_PEOPLE), np.zeros((512, 512, 3), np.uint8), np.full((512, 512, 3), 255, np.uint8)]
    path = written_poses([(picture, encoded(one, "PNG")) for one in maps], tmp_path / "rows.parquet")
    result = condprep.verify(path, checks=["condition", "curation"], sample=0, weights=Weights(offline=True))
    told: dict[Any, set[tuple[str, str]]] = {row: set() for row in range(3)}
    for finding in result.findings:
        if finding.rule not in ("duplicate", "blurred", "edge-density"):
            told[finding.row].add((finding.rule, finding.severity))
    assert told == {0: set(), 1: {("nobody", "warning")}, 2: {("constant", "error")}}


class Network(Remembering, Openpose):
    """It is asked about the same pictures for maps in their places and for maps beside them."""


@pytest.mark.slow
@pytest.mark.skipif(
    not (FOLDER.is_dir() and PEOPLE.is_dir()), reason=f"no network and pictures in {FOLDER} and {PEOPLE}"
)
def test_shifts_of_a_real_network_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of a real network, pictures stored as JPEG: clean rows pass, maps 2 px off are all told with their shift."""
    network = Network(DM14(), device="cpu", height=HEIGHT // 2)
    monkeypatch.setattr(reannotate, "load_annotator", lambda name, **how: network)
    pictures = [cv2.imread(str(path))[:416, :416, ::-1].copy() for path in sorted(PEOPLE.glob("*.jpg"))]
    maps = [draw_bodies([pose.body for pose in network.find(_batch(one))[0]], *one.shape[:2]) for one in pictures]
    for by in (0, 2):
        pairs = [(_jpeg(one), encoded(shifted(m, by, 0), "PNG")) for one, m in zip(pictures, maps) if m.any()]
        path = written_poses(pairs, tmp_path / f"{by}.parquet")
        result = condprep.verify(path, checks=["alignment"], annotator="openpose", weights=Weights(offline=True))
        reasons = [finding.reason for finding in result.findings if finding.rule != "shared-shift"]
        assert reasons == (["condition is shifted by (+2, 0) px"] * len(pairs) if by else [])


def _batch(picture: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def _jpeg(picture: np.ndarray) -> bytes:
    from condprep.images.encode import encode_picture

    return encode_picture(picture)
