"""Points of hands and faces from heatmaps, with controlnet_aux's decoders as oracle: drawn maps, noise and tints."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.openpose_parts import Blobs, Tints, photo
from support.openpose_reference import _Model, hand_class, part_of_the_reference
from support.thorough import examples, slow_ones
from support.waits import Waits

from condprep.annotators.openpose.faces import Faces
from condprep.annotators.openpose.hands import Hands
from condprep.annotators.openpose.inputs import blur_on_device, resize_on_device
from condprep.annotators.openpose.keypoints import Points

PIXELS = 2**21


def hands(network: torch.nn.Module, pixels: int = PIXELS) -> Hands:
    return Hands(network, torch.float32, pixels)


def faces(network: torch.nn.Module, pixels: int = PIXELS) -> Faces:
    return Faces(network, torch.float32, pixels)


def crop_of(height: int, width: int) -> torch.Tensor:
    """(3, height, width) uint8 RGB"""
    return torch.from_numpy(photo(height, width)).permute(2, 0, 1)


def reference_hand(network: torch.nn.Module, crop: torch.Tensor, side: int = 368) -> np.ndarray:
    """x and y of the 21 points (21, 2), 0 where the reference found none. side: of the second of a hand's sizes."""
    hand = object.__new__(hand_class(side))
    hand.model = _Model(network)
    return hand(crop.permute(1, 2, 0).numpy()[:, :, ::-1])


def reference_face(network: torch.nn.Module, crop: torch.Tensor) -> np.ndarray:
    """x and y of the points that the reference found (N, 2), without those that it did not."""
    face = object.__new__(part_of_the_reference("face").Face)
    face.model = _Model(lambda x: [network(x)])
    heatmaps = face(crop.permute(1, 2, 0).numpy()[:, :, ::-1].copy())
    return face.compute_peaks_from_heatmaps(heatmaps).reshape(-1, 2)


def assert_same_hand(ours: Points, theirs: np.ndarray) -> None:
    """The same points; those in the first row or column, which the reference never draws, are missing in ours."""
    drawn = np.where((theirs > 0).all(1, keepdims=True), theirs, 0)
    assert np.array_equal(ours[:, :2], drawn)
    assert np.array_equal(ours[:, 2] > 0, drawn[:, 0] > 0)


def assert_same_face(ours: Points, theirs: np.ndarray) -> None:
    """The same points in the same order, where the reference has no gaps for missing ones."""
    found = ours[ours.any(1)]
    assert np.array_equal(found[:, :2], theirs[(theirs > 0).all(1)])


@st.composite
def blobs(draw: st.DrawFn, maps: int) -> Blobs:
    """Points anywhere, strong, faint or missing, in clean maps or in noise."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points = rng.uniform((-0.1, -0.1, 0), (1.1, 1.1, 1), (maps, 3))
    points[:, 2] *= rng.random(maps) < 0.8
    return Blobs(points, draw(st.sampled_from([0.0, 0.01, 0.03])))


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(blobs(22), st.integers(20, 400))
def test_hands_have_the_reference_s_points(network, side):
    """Of heatmaps with known points, clean or noisy, both decoders read the same pixels in hands of any size."""
    crop = crop_of(side, side)
    [ours] = hands(network)([crop])
    assert_same_hand(ours, reference_hand(network, crop))


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(blobs(71), st.integers(10, 600), st.integers(10, 600))
def test_faces_have_the_reference_s_points(network, height, width):
    """Of heatmaps with known points, clean or noisy, both decoders read the same pixels in faces of any shape."""
    crop = crop_of(height, width)
    [ours] = faces(network)([crop])
    assert_same_face(ours, reference_face(network, crop))


@pytest.mark.slow
@settings(max_examples=examples(20, 1000), deadline=None)
@given(blobs(22), st.integers(20, 200), blobs(71), st.integers(10, 250), st.integers(10, 250))
def test_more_hands_and_faces(hand, side, face, height, width):
    """As the two above, more often and other ones in every run; smaller, and a hand is seen in two thirds of its sizes."""
    crop = crop_of(side, side)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("condprep.annotators.openpose.hands.SIDES", (128, 256, 384, 512))
        assert_same_hand(hands(hand)([crop])[0], reference_hand(hand, crop, side=256))
    crop = crop_of(height, width)
    assert_same_face(faces(face)([crop])[0], reference_face(face, crop))


@pytest.mark.parametrize("to", [(128, 128), (40, 300)])
def test_the_reference_s_own_resizing_is_what_ours_is_held_to(to):
    """Resized channel by channel, as the tests have it done, heatmaps have the values that the reference alone gives."""
    util, maps = part_of_the_reference("util"), np.random.default_rng(0).normal(size=(46, 30, 22)).astype(np.float32)
    enlarged = util.smart_resize_k(maps, fx=8, fy=8)
    assert np.array_equal(enlarged, util.smart_resize_k.__wrapped__(maps, fx=8, fy=8))
    assert np.array_equal(util.smart_resize(enlarged, to), util.smart_resize.__wrapped__(enlarged, to))


@pytest.mark.parametrize("side", [97, *slow_ones([20, 250])])
def test_the_networks_see_what_the_reference_s_see(side):
    """Heatmaps that depend on the picture's colours give the same points: the inputs are the reference's, four times."""
    crop = crop_of(side, side)
    [hand], [face] = hands(Tints(22))([crop]), faces(Tints(71))([crop])
    assert 3 <= hand.any(1).sum() < 21
    assert 10 <= face.any(1).sum() < 71
    assert_same_hand(hand, reference_hand(Tints(22), crop))
    assert_same_face(face, reference_face(Tints(71), crop))


def test_points_are_where_they_were_drawn():
    """A point in the heatmaps comes back at its place in the picture and with its height; what is faint is missing."""
    rng = np.random.default_rng(1)
    points = rng.uniform((0.1, 0.1, 0.4), (0.9, 0.9, 1), (71, 3))
    points[[3, 8, 20], 2] = 0, 0.02, 0
    for found, side in (
        (hands(Blobs(points[:22]))([crop_of(256, 256)])[0], 256),
        (faces(Blobs(points))([crop_of(300, 300)])[0], 300),
    ):
        expected = points[: len(found)]
        there = expected[:, 2] > 0.05
        assert np.array_equal(found.any(1), there)
        assert np.abs(found[there, :2] - expected[there, :2] * side).max() <= 0.02 * side
        assert np.abs(found[there, 2] - expected[there, 2]).max() <= 0.25


def test_a_face_s_confidence_is_its_heatmap_s():
    """The confidence of a point is what the enlarged heatmap has there."""
    network, crop = Tints(71), crop_of(150, 170)
    [points] = faces(network)([crop])
    face = object.__new__(part_of_the_reference("face").Face)
    face.model = _Model(lambda x: [network(x)])
    heatmaps = face(crop.permute(1, 2, 0).numpy()[:, :, ::-1].copy())
    for (x, y, score), heatmap in zip(points, heatmaps, strict=True):
        assert not score or abs(score - heatmap[int(y), int(x)]) <= 1e-4
    assert points[:, 2].any()


def test_a_hand_s_confidence_is_its_heatmap_s():
    """The confidence of a point is the mean of the four heatmaps there, as the reference enlarges and averages them."""
    util, network, crop = part_of_the_reference("util"), Tints(22), crop_of(128, 128)
    [points] = hands(network)([crop])
    blurred = cv2.GaussianBlur(crop.permute(1, 2, 0).numpy()[:, :, ::-1], (0, 0), 0.8)
    mean = np.zeros((128, 128, 22))
    for side in (184, 368, 552, 736):
        seen = util.smart_resize(blurred, (side, side)).transpose(2, 0, 1)[None] / 256 - 0.5
        maps = network(torch.from_numpy(seen).float())[0].permute(1, 2, 0).numpy()
        mean += util.smart_resize(util.smart_resize_k(maps, fx=8, fy=8), (128, 128)) / 4
    for number, (x, y, score) in enumerate(points):
        assert not score or abs(score - mean[int(y), int(x), number]) <= 1e-4
    assert points[:, 2].any()


def test_hands_and_faces_do_not_depend_on_their_batch():
    """Many at once, of different sizes and in one forward or several, give the points that each gives alone."""
    squares = [crop_of(side, side) for side in (20, 61, 333)]
    shapes = [crop_of(50, 90), crop_of(400, 300), crop_of(12, 20)]
    for find, maps, crops in ((hands, 22, squares), (faces, 71, shapes)):
        alone = [find(Tints(maps))([crop])[0] for crop in crops]
        for pixels in (PIXELS, 1):
            together = find(Tints(maps), pixels)(crops)
            assert all(np.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(together, alone, strict=True))


def test_one_forward_for_all():
    """All faces are one call of their network, all hands one call for each of the four sizes."""
    calls: list[tuple[int, ...]] = []
    for find, maps in ((hands, 22), (faces, 71)):
        network = Tints(maps)
        network.register_forward_hook(lambda module, args, output: calls.append(tuple(args[0].shape)))
        find(network, pixels=2**24)([crop_of(40, 40)] * 5)
    assert calls == [(5, 3, side, side) for side in (184, 368, 552, 736, 384)]


def test_hands_make_the_host_wait_twice_and_faces_once(monkeypatch):
    """However many there are and however many forwards they take: the host waits for their points alone."""
    for module in ("hands", "faces"):
        monkeypatch.setattr(f"condprep.annotators.openpose.{module}.resize_as_reference", resize_on_device)
    monkeypatch.setattr("condprep.annotators.openpose.hands.blur", blur_on_device)
    crops = [crop_of(side, side) for side in (20, 40, 40)]
    for find, maps, waits in ((hands, 22, 2), (faces, 71, 1)):
        finder = find(Tints(maps), pixels=1)
        finder(crops)  # the first call of a size makes what later ones find ready
        with Waits() as counted:
            finder(crops)
        assert counted.waits == counted.found["out"] == waits, counted.found


def test_nobody_is_looked_for():
    """No hand and no face: no call of the network, no points."""
    assert hands(torch.nn.Identity())([]) == []
    assert faces(torch.nn.Identity())([]) == []


def test_nothing_is_found():
    """Empty heatmaps: all points are missing."""
    empty = Blobs(np.zeros((71, 3)))
    assert not faces(empty)([crop_of(30, 30)])[0].any()
    assert not hands(Blobs(np.zeros((22, 3))))([crop_of(30, 30)])[0].any()


def test_the_strongest_part_of_a_heatmap_has_the_point():
    """A broad weak patch that holds more than a narrow high one wins, as in the reference."""

    def network(x: torch.Tensor) -> torch.Tensor:
        maps = torch.zeros(len(x), 22, x.shape[2] // 8, x.shape[3] // 8)
        half = maps.shape[2] // 2
        maps[:, 0, 2:half, 2:half] = 0.3
        maps[:, 0, -2, -2] = 1.0
        return maps

    crop = crop_of(128, 128)
    [ours] = hands(network)([crop])  # type: ignore[arg-type]
    assert ours[0, :2].max() < 70
    assert_same_hand(ours, reference_hand(network, crop))  # type: ignore[arg-type]
