"""openpose:dwpose against rtmlib and onnxruntime, which run the same files a picture and a person at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from support.dwpose_models import as_weights, write_detector
from support.openpose_parts import as_batch, photo
from support.waits import Waits

from condprep.annotators.openpose.draw import draw_poses
from condprep.annotators.openpose.dwpose.annotator import VARIANTS, Dwpose
from condprep.annotators.openpose.dwpose.detector import CELLS, VALUES, PeopleDetector, people, suppress
from condprep.annotators.openpose.dwpose.landmarks import Landmarker
from condprep.annotators.openpose.dwpose.network import Network
from condprep.annotators.openpose.dwpose.poses import poses
from condprep.annotators.openpose.keypoints import FACE_POINTS, column_value, present

SIZES = ((640, 640), (512, 384), (333, 517), (97, 64), (700, 250))


@pytest.fixture(scope="module")
def ours(detector: Path, landmarks: Path) -> Dwpose:
    return Dwpose(as_weights(detector), as_weights(landmarks), variant="dwpose-full", device="cpu", precision="fp32")


def find(path: Path) -> PeopleDetector:
    return PeopleDetector(path, "cpu", chunk=2, dtype=torch.float32)


@pytest.mark.parametrize("pictures", [1, 3])
def test_networks_give_what_onnxruntime_gives(detector, landmarks, pictures):
    """Files for one picture and for any number, in batches: the values of onnxruntime within float32's rounding."""
    runtime = pytest.importorskip("onnxruntime")
    for path, shape, outputs in (
        (detector, (3, 640, 640), [(CELLS, VALUES)]),
        (landmarks, (3, 384, 288), [(133, 576), (133, 768)]),
    ):
        x = torch.rand(pictures, *shape, generator=torch.Generator().manual_seed(1))
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        theirs = zip(*(session.run(None, {"input": one[None].numpy()}) for one in x))
        with torch.inference_mode():
            values = Network(path, input=shape, outputs=outputs)(x)
        for value, expected in zip(values, map(np.concatenate, theirs), strict=True):
            np.testing.assert_allclose(value.numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_boxes_are_rtmlib_s(detector, rtmlib: Any):
    """Pictures of any shape, in batches: the same people, in the same order, within 0.01 px."""
    theirs = rtmlib.YOLOX(str(detector), score_thr=0.3, det_mode="multiclass")
    pictures = [photo(*size) for size in SIZES]
    with torch.inference_mode():
        found = find(detector)(pictures)
    assert sum(map(len, found)) > 20
    for rgb, boxes in zip(pictures, found, strict=True):
        expected, kinds = theirs(rgb)
        np.testing.assert_allclose(boxes, expected[kinds == 0], rtol=0, atol=0.01)


def test_points_are_rtmlib_s(landmarks, rtmlib: Any):
    """People anywhere, also at and beyond the frame, wide, tall and tiny: the same 133 places, and the lower score of both axes."""
    theirs = rtmlib.RTMPose(str(landmarks), model_input_size=(288, 384))
    rgb = data.astronaut()
    boxes = np.array(
        [[50, 30, 400, 500], [-80, -40, 300, 200], [0, 0, 512, 60], [500, 480, 530, 600], [10.3, 7.7, 11.9, 9.1]], "f4"
    )
    with torch.inference_mode():
        [points] = Landmarker(landmarks, "cpu", chunk=2, dtype=torch.float32)([rgb], [boxes])
    places, scores = theirs(rgb, boxes)
    seen = scores > 0
    assert seen.sum() > 100
    np.testing.assert_allclose(points[seen][:, :2], places[seen], rtol=0, atol=1e-3)
    assert (points[..., 2] <= scores + 1e-5).all()  # rtmlib's is the mean of both axes, the reference's the lower


def test_nobody_and_everybody(tmp_path, landmarks):
    """Without a person the map is black and the column empty; of hundreds of boxes each is a person of its own."""
    rgb = as_batch(photo(200, 300))
    for belief, least, most in ((-20, 0, 0), (3, 50, 10_000)):
        path = write_detector(tmp_path / f"{belief}.onnx", belief)
        crowd = Dwpose(as_weights(path), as_weights(landmarks), variant="dwpose", device="cpu", precision="fp32")
        if most:
            crowd._landmarker = lambda pictures, boxes: [np.full((len(found), 133, 3), 0.5) for found in boxes]
        maps = crowd(rgb, ["a"])
        assert least <= len(maps.columns["keypoints"][0]["people"]) <= most
        assert maps.maps.any() == bool(most)


@pytest.mark.slow
def test_a_result_does_not_depend_on_the_batch(ours):
    """The same bits alone and among others."""
    rgb = torch.cat([as_batch(photo(240, 320)), as_batch(photo(240, 320)).flip(3), as_batch(photo(240, 320)).flip(2)])
    together = ours(rgb, ["a", "b", "c"])
    assert any(one["people"] for one in together.columns["keypoints"])
    for i in range(3):
        alone = ours(rgb[i : i + 1], ["x"])
        assert alone.columns["keypoints"] == together.columns["keypoints"][i : i + 1]
        assert torch.equal(alone.maps[0], together.maps[i])


def test_the_map_shows_the_column(ours):
    """What is drawn is what the column holds, hands and faces included."""
    rgb = as_batch(photo(300, 260))
    [found], maps = ours.find(rgb), ours(rgb, ["a"])
    assert maps.columns["keypoints"] == [column_value(found)]
    assert np.array_equal(maps.maps[0].permute(1, 2, 0).numpy(), draw_poses(found, 300, 260))
    assert maps.maps.any()


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (640, 2)])
def test_odd_sizes(ours, size):
    """A map has the picture's size, however small or narrow that is."""
    assert ours(torch.full((1, 3, *size), 128, dtype=torch.uint8), ["a"]).maps.shape == (1, 3, *size)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_variant_has_its_parts(detector, landmarks, variant):
    """Parts that were not asked for are not there; bodies are the same in all."""
    annotator = Dwpose(as_weights(detector), as_weights(landmarks), variant=variant, device="cpu", precision="fp32")
    [found] = annotator.find(as_batch(photo(240, 320)))
    assert found
    for pose in found:
        assert (
            (pose.left_hand is None) == (pose.right_hand is None) == ("hand" not in variant and "full" not in variant)
        )
        assert (pose.face is None) == ("face" not in variant and "full" not in variant)


@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_points_become_openpose_s_as_rtmlib_turns_them(rtmlib, seed, count):
    """Any points and scores: the same joints, hands and faces are there, at the same places."""
    from rtmlib.tools.pose_estimation.post_processings import convert_coco_to_openpose

    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.uniform(-10, 600, (count, 133, 2)), rng.uniform(0, 0.7, (count, 133, 1))], 2)
    mine = poses(points, hands=True, faces=True)
    theirs = rtmlib.Wholebody.format_result(
        np.concatenate(
            [
                part if part.ndim == 3 else part[..., None]
                for part in convert_coco_to_openpose(points[..., :2], points[..., 2])
            ],
            2,
        )
    )
    assert len(mine) == len(theirs) == count
    for pose, expected in zip(mine, theirs):
        parts = (
            (pose.body, expected.body.keypoints),
            (pose.left_hand, expected.left_hand),
            (pose.right_hand, expected.right_hand),
            (pose.face[:FACE_POINTS], expected.face),
        )
        for part, places in parts:
            wanted = [(p.x, p.y, p.score) if p else (0, 0, 0) for p in places or [None] * len(part)]
            np.testing.assert_allclose(part, wanted, rtol=1e-6)


def test_a_threshold_leaves_out_what_is_believed_less(ours, detector, landmarks):
    """The column is that of no threshold without the points of no higher score, and who has none left is gone."""
    rgb = as_batch(photo(240, 320))
    strict = Dwpose(
        as_weights(detector),
        as_weights(landmarks),
        variant="dwpose-full",
        device="cpu",
        precision="fp32",
        threshold=0.6,
    )
    assert strict.provenance["parameters"] == {"precision": "fp32", "threshold": 0.6}
    [loose], [kept] = ours.find(rgb), strict.find(rgb)
    above = [[np.where(part[:, 2:] > 0.6, part, 0) for part in pose] for pose in loose]
    wanted = [parts for parts in above if any(part.any() for part in parts)]
    assert (
        0
        < sum(part.any(1).sum() for parts in wanted for part in parts)
        < sum(part.any(1).sum() for pose in loose for part in pose)
    )
    for pose, parts in zip(kept, wanted, strict=True):
        for part, expected in zip(pose[:3], parts[:3]):
            np.testing.assert_array_equal(part, expected)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_no_two_kept_boxes_overlap(seed, count):
    """The surest is kept, what is left overlaps none kept by more than the limit, and what is gone overlaps one that is surer."""
    rng = np.random.default_rng(seed)
    corner, scores = rng.uniform(0, 100, (count, 2)), rng.uniform(0.3, 1, count).astype("f4")
    boxes = np.concatenate([corner, corner + rng.uniform(1, 80, (count, 2))], 1).astype("f4")
    kept = suppress(boxes, scores)
    assert np.array_equal(kept[0], boxes[scores.argmax()])
    ratio = overlaps(boxes, kept)
    chosen = [int(np.flatnonzero((boxes == one).all(1))[0]) for one in kept]
    for at in range(count):
        surer = [n for n, other in enumerate(chosen) if scores[other] > scores[at]]
        assert (at in chosen) == (not surer or ratio[at, surer].max() <= 0.45 + 1e-6)


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of whole pixels, (N, M)."""
    low, high = np.maximum(boxes[:, None, :2], others[None, :, :2]), np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.clip(high - low + 1, 0, None).prod(2)
    area, other = ((b[:, 2] - b[:, 0] + 1) * (b[:, 3] - b[:, 1] + 1) for b in (boxes, others))
    return common / (area[:, None] + other[None] - common)


def test_what_is_not_a_number_is_nobody():
    """A user's own weights can give anything: boxes and points without places are left out."""
    cells = np.zeros((CELLS, 5), "f4")
    cells[:3] = [[np.nan, 0, 0, 0, 0.9], [0, 0, 1000, 0, 0.9], [0, 0, 0, 0, np.nan]]
    assert people(cells, 1.0).shape == (0, 4)
    points = np.full((2, 133, 3), 0.5)
    points[1, 7, 0] = np.inf
    [one] = poses(points, hands=False, faces=False)
    assert present(one.body).all()


@pytest.mark.parametrize("pictures", [1, 3])
def test_people_are_found_in_three_waits(ours: Dwpose, pictures: int) -> None:
    """Any number of pictures and people: the host waits for the pictures, for the boxes and for the points, once each."""
    batch = as_batch(*(photo(160, 120 + 40 * n)[:, :120] for n in range(pictures)))
    for network in (ours._detector._network, ours._landmarker._network):
        for shape in network.whole.values():  # stays with the host
            shape._on_host = True  # type: ignore[attr-defined]
    with Waits() as counted:
        people = [found for found, *_ in ours.see(batch).found]
    assert sum(map(len, people)) > ours._landmarker._chunk, "the networks look more than once"
    assert counted.waits == counted.found["out"] == 3, counted.found
