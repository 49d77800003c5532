"""openpose:full: bodies, hands and faces together, against controlnet_aux with the same networks, and how it is loaded."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.aux_models import undrawn
from support.openpose_crowds import Crowd
from support.openpose_dm14 import DM14, FOLDER, HEIGHT, PEOPLE, pictures
from support.openpose_parts import Tints, as_batch, photo
from support.openpose_reference import Reference, WholeReference, part_of_the_reference
from support.shelf import Shelf
from support.thorough import share

from condprep.annotators.openpose import load as openpose
from condprep.annotators.openpose.annotator import Openpose
from condprep.annotators.openpose.draw import draw_poses
from condprep.annotators.openpose.keypoints import FACE_POINTS, KEYPOINTS, PARTS, Points, Pose, column_value, moved
from condprep.annotators.openpose.load import OpenposeParams
from condprep.annotators.openpose.network import BodyNetwork
from condprep.annotators.openpose.point_network import FACE_MAPS, HAND_MAPS, PointNetwork
from condprep.errors import WeightsUnavailable
from condprep.weights.find import WeightFile


def full(body: torch.nn.Module, **options) -> Openpose:
    return Openpose(body, hand=Tints(22), face=Tints(71, seed=1), device="cpu", variant="full", **options)


def reference(body: torch.nn.Module, scale: float = 0.5) -> WholeReference:
    return WholeReference(Reference(body, scale), Tints(22), Tints(71, seed=1))


def assert_same_pose(ours: Pose, theirs, height: int, width: int) -> None:
    """Points within 0.01 px, body's confidences within 1e-4; faces in order, since the reference has no gaps there."""
    body = [(p.x * width, p.y * height) if p else (0, 0) for p in theirs.body.keypoints]
    assert np.abs(ours.body[:, :2] - body).max() <= 0.01
    for hand, expected in ((ours.left_hand, theirs.left_hand), (ours.right_hand, theirs.right_hand)):
        assert np.allclose(hand[:, :2], pixels(expected or [], height, width, missing=21), rtol=0, atol=0.01)
    found = ours.face[ours.face.any(1), :2]
    faces = pixels(theirs.face or [], height, width)
    assert np.allclose(found, faces[faces.any(1)], rtol=0, atol=0.01)


def pixels(points: list, height: int, width: int, missing: int = 0) -> np.ndarray:
    """The reference's points (N, 2); 0, 0 for those that it never draws, and `missing` times where there are none."""
    places = np.array([(p.x * width, p.y * height) for p in points] or np.zeros((missing, 2))).reshape(-1, 2)
    return np.where((places > 0).all(1, keepdims=True), places, 0)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(100, 500), st.integers(100, 500))
def test_crowds_are_the_reference_s(seed, count, height, width):
    """Random people: the same hands and faces for the same bodies, and the same map byte for byte."""
    body, rgb = Crowd(seed, count, height, width), photo(height, width)
    theirs, drawn = reference(body)(rgb)
    annotator = full(body)
    [ours] = annotator.find(as_batch(rgb))
    assert len(ours) == len(theirs)
    for pose, expected in zip(ours, theirs):
        assert_same_pose(pose, expected, height, width)
    assert np.array_equal(annotator(as_batch(rgb), [""]).maps[0].permute(1, 2, 0).numpy(), drawn)


@pytest.mark.slow
@pytest.mark.skipif(not (FOLDER.is_dir() and PEOPLE.is_dir()), reason=f"no network and pictures in {FOLDER}, {PEOPLE}")
def test_real_people_are_the_reference_s():
    """A real body network on real pictures: hands and faces at the same places, and the same map byte for byte."""
    hands = faces = 0
    for rgb in pictures()[:2]:
        theirs, drawn = reference(DM14(), scale=1.0)(rgb)
        annotator = full(DM14(), height=HEIGHT)
        [ours] = annotator.find(as_batch(rgb))
        for pose, expected in zip(ours, theirs, strict=True):
            assert_same_pose(pose, expected, *rgb.shape[:2])
        assert np.array_equal(draw_poses(ours, *rgb.shape[:2]), drawn)
        hands += sum(pose.left_hand.any() + pose.right_hand.any() for pose in ours)
        faces += sum(bool(pose.face.any()) for pose in ours)
    assert hands >= 2
    assert faces >= 2


def test_batching_changes_speed_not_people():
    """Pictures with different people together give the maps and keypoints that each gives alone."""

    class Picky(Crowd):
        """Sees the crowd only in bright pictures."""

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            bright = x.mean((1, 2, 3), keepdim=True) > -0.2
            return tuple(part * bright for part in super().forward(x))

    annotator = full(Picky(3, 2, 200, 240))
    bright, dark = photo(200, 240), photo(200, 240) // 8
    batch = as_batch(bright, dark, bright[:, ::-1].copy())
    together = annotator(batch, [""] * 3)
    for number, picture in enumerate(batch.split(1)):
        alone = annotator(picture, [""])
        assert torch.equal(together.maps[number], alone.maps[0])
        assert together.columns["keypoints"][number] == alone.columns["keypoints"][0]
    assert together.columns["keypoints"][1] == {"people": []}
    assert together.columns["keypoints"][0]["people"]


def test_parts_that_are_not_asked_for_are_not_looked_for():
    """`hand` leaves the face's list empty, `face` the hands', and each draws what it has."""
    body, rgb = Crowd(3, 2, 200, 240), as_batch(photo(200, 240))
    filled = {}
    for variant, networks in {"cmu": {}, "hand": {"hand": Tints(22)}, "face": {"face": Tints(71)}}.items():
        result = Openpose(body, device="cpu", variant=variant, **networks)(rgb, [""] * len(rgb))
        people = result.columns["keypoints"][0]["people"]
        filled[variant] = {part for part in PARTS if people[0][part]}
        assert all(len(person[part]) > 0 for person in people for part in filled[variant])
    hands = {"hand_left_keypoints_2d", "hand_right_keypoints_2d"}
    assert filled["cmu"] == {"pose_keypoints_2d"}
    assert filled["hand"] == {"pose_keypoints_2d"} | hands
    assert filled["face"] == {"pose_keypoints_2d", "face_keypoints_2d"}


def random_pose(rng: np.random.Generator, height: int, width: int) -> Pose:
    """Points on whole pixels of the picture, some of them missing, in its first row and column, too."""

    def points(count: int) -> Points:
        found = np.column_stack([rng.integers(0, (width, height), (count, 2)), rng.uniform(0.1, 1, count)])
        return (found * (rng.random((count, 1)) < 0.8)).astype(np.float32)

    return Pose(points(18), points(21), points(21), points(71))


def as_drawn_there(pose: Pose, height: int, width: int):
    """As the reference keeps a pose: shares of the picture in float32, -1 for what is missing in hands and faces."""
    package, util = part_of_the_reference("__init__"), part_of_the_reference("util")

    def shares(points: Points) -> list:
        xy = np.where(points.any(1, keepdims=True), points[:, :2], -1).astype(np.float32)
        return [util.Keypoint(x=x, y=y) for x, y in np.column_stack([xy[:, 0] / width, xy[:, 1] / height])]

    body = [util.Keypoint(x / width, y / height) if c else None for x, y, c in pose.body.astype(float)]
    return package.PoseResult(util.BodyResult(body, 1.0, 1), *map(shares, pose[1:]))


@settings(max_examples=share(60), deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 300), st.integers(2, 300))
def test_people_are_drawn_as_the_reference_draws_them(seed, height, width):
    """Any people with hands and faces, some points missing, give the reference's map byte for byte."""
    rng = np.random.default_rng(seed)
    people = [random_pose(rng, height, width) for _ in range(rng.integers(1, 4))]
    draw = part_of_the_reference("__init__").draw_poses
    expected = draw([as_drawn_there(pose, height, width) for pose in people], height, width)
    assert np.array_equal(draw_poses(people, height, width), expected)


def test_a_missing_face_point_stays_missing():
    """The points after a missing one keep their numbers in the column, which has 70 of the 71 that are drawn."""
    face = np.tile(np.arange(1, 72, dtype=np.float32)[:, None], (1, 3))
    face[5] = 0
    [person] = column_value([Pose(np.ones((18, 3), np.float32), face=face)])["people"]
    stored = np.reshape(person["face_keypoints_2d"], (-1, 3))
    assert stored.shape == (FACE_POINTS, 3)
    assert np.array_equal(stored, face[:70])


def test_hands_and_faces_fit_the_column_and_move_with_the_picture():
    """All four lists are values of the Arrow type, and shift with the picture when it is padded; missing points do not."""
    pose = random_pose(np.random.default_rng(0), 100, 100)
    [stored] = pa.array([column_value([pose])], KEYPOINTS).to_pylist()
    [person] = moved(stored, down=7, right=30)["people"]
    assert [len(person[part]) for part in PARTS] == [18 * 3, 21 * 3, 21 * 3, 70 * 3]
    for part, points in zip(PARTS, pose):
        shifted = points + np.where(points.any(1, keepdims=True), (30, 7, 0), 0)
        assert np.array_equal(np.reshape(person[part], (-1, 3)), shifted[:70].astype(np.float32))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, WeightFile]:
    """Files of the three networks under their published names."""
    folder = tmp_path_factory.mktemp("weights")
    with undrawn(0.0):
        networks = {
            openpose.BODY: BodyNetwork(),
            openpose.HAND: PointNetwork(HAND_MAPS),
            openpose.FACE: PointNetwork(FACE_MAPS),
        }
    for name, network in networks.items():
        torch.save(network.half().state_dict(), folder / name)
    return {name: WeightFile(name, folder / name, f"sha256 of {name}", pinned=True) for name in networks}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["hand", "face", "full"])
def test_variants_are_loaded_and_recorded(files, variant):
    """Each variant loads its networks, says so, and records their files and the non-commercial licence."""
    shelf = Shelf(*files.values())
    with undrawn(0.0):
        annotator = openpose.load(variant, OpenposeParams(), device="cpu", weights=shelf)
    assert (annotator.name, annotator.variant, shelf.said) == ("openpose", variant, [])
    assert annotator.provenance["weights"] == {name: f"sha256 of {name}" for name in openpose.CMU[variant]}
    assert annotator.provenance["commercial"] is False
    assert annotator(torch.zeros(1, 3, 20, 24, dtype=torch.uint8), [""]).columns["keypoints"] == [{"people": []}]


@pytest.mark.parametrize("variant", ["hand", "face", "full"])
def test_nothing_stands_in_for_a_missing_network(files, variant):
    """A variant of which any file is missing is an error that names it, never a body without hands or face."""
    for missing in openpose.CMU[variant]:
        there = [file for name, file in files.items() if name != missing]
        with pytest.raises(WeightsUnavailable, match=missing):
            openpose.load(variant, OpenposeParams(), device="cpu", weights=Shelf(*there))


@pytest.mark.slow
def test_the_real_networks_layers_give_the_reference_s_people(monkeypatch):
    """Networks of the published layout with one set of random weights in both, through all four sizes of a hand.

    They are a third of what they are otherwise, which other tests hold to the reference without such layers.
    """
    monkeypatch.setattr("condprep.annotators.openpose.hands.SIDES", (64, 128, 192, 256))
    torch.manual_seed(0)
    hand, face = PointNetwork(HAND_MAPS), PointNetwork(FACE_MAPS)
    for layer in chain(hand.modules(), face.modules()):
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    with undrawn(0.0):  # they get our weights
        theirs_hand = part_of_the_reference("model").handpose_model()
        theirs_face = part_of_the_reference("face").FaceNet()
    theirs_face.load_state_dict(face.state_dict())
    names = {name: name.split(".", 1)[1] for name in theirs_hand.state_dict()}
    theirs_hand.load_state_dict({name: hand.state_dict()[ours] for name, ours in names.items()})
    body, rgb = Crowd(3, 1, 200, 240), photo(200, 240)
    expected, drawn = WholeReference(Reference(body), theirs_hand, lambda x: theirs_face(x)[-1], side=128)(rgb)
    annotator = Openpose(body, hand=hand, face=face, device="cpu")
    [[ours]] = annotator.find(as_batch(rgb))
    assert ours.left_hand.any() or ours.right_hand.any()
    assert_same_pose(ours, expected[0], 200, 240)
    assert np.array_equal(draw_poses([ours], 200, 240), drawn)
