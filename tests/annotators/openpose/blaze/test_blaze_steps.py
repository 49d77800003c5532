"""The steps of openpose:blaze: crops, what it looks at, how it tells people apart, and joints from landmarks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from condprep.annotators.openpose.blaze import poses, tiles
from condprep.annotators.openpose.blaze.detector import Detections, anchors, overlap, regions, suppress
from condprep.annotators.openpose.blaze.landmarks import POINTS, Poses, refine
from condprep.annotators.openpose.blaze.squares import Squares, crop
from condprep.annotators.openpose.keypoints import JOINTS


def picture(height: int = 40, width: int = 60) -> Tensor:
    """A picture of noise, (1, 3, H, W)."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def square(x: float, y: float, side: float, angle: float = 0) -> Squares:
    return Squares(np.array([0]), np.array([[x, y]]), np.array([side]), np.array([np.radians(angle)]))


@pytest.mark.parametrize("quarters", range(4))
def test_a_crop_at_its_own_size_is_the_pixels(quarters: int) -> None:
    """A square on whole pixels, turned by quarters, gives these pixels, turned the other way."""
    rgb = picture()
    seen = crop(rgb, square(19.5, 24.5, 20, 90 * quarters), 20, replicate=True)
    expected = rgb[:, :, 15:35, 10:30].float().rot90(quarters, (2, 3))
    torch.testing.assert_close(seen, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_shrunk_crop_is_the_mean_of_its_pixels(factor: int) -> None:
    """Shrunk by a power of two, each point is the mean of all pixels that it stands for: none is skipped."""
    rgb = picture(64, 64)
    seen = crop(rgb, square(31.5, 31.5, 64), 64 // factor, replicate=True)
    expected = torch.nn.functional.avg_pool2d(rgb.float(), factor)
    torch.testing.assert_close(seen, expected, atol=0.01, rtol=0)


def test_an_enlarged_crop_is_opencvs() -> None:
    """Enlarged, turned and partly outside, a crop is cv2.warpAffine's bilinear one with its border repeated."""
    rgb, one = picture(), square(50, 10, 30, 33)
    corners = one.place(np.array([[[0.5 / 96, 0.5 / 96], [95.5 / 96, 0.5 / 96], [0.5 / 96, 95.5 / 96]]]))[0]
    matrix = cv2.getAffineTransform(corners.astype(np.float32), np.float32([[0, 0], [95, 0], [0, 95]]))
    pixels = rgb[0].permute(1, 2, 0).numpy()
    expected = cv2.warpAffine(pixels.astype(np.float32), matrix, (96, 96), borderMode=cv2.BORDER_REPLICATE)
    seen = crop(rgb, one, 96, replicate=True)[0].permute(1, 2, 0).numpy()
    assert np.abs(seen - expected).mean() < 1  # OpenCV rounds positions to 1 / 32 pixel, and this is noise
    assert np.abs(seen - expected).max() < 20


def test_outside_of_the_picture_is_black_for_the_detector() -> None:
    """Without `replicate` a point outside of the picture is 0, inside it is the picture."""
    rgb = torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)
    seen = crop(rgb, square(7.5, 7.5, 32), 32, replicate=False)
    expected = torch.zeros(1, 3, 32, 32)
    expected[:, :, 8:24, 8:24] = 200
    torch.testing.assert_close(seen, expected)


@settings(deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_tiles_cover_the_picture(height: int, width: int) -> None:
    """At each scale the tiles cover every pixel, overlap by half, stay inside where they fit, and are at most 36."""
    looked = tiles.views(1, height, width, scales=3)
    for scale in range(2, 5):
        tile = looked[looked.scale == scale]
        assert 1 <= len(tile) <= 36
        for axis, length in enumerate((width, height)):
            start = np.unique((tile.centre[:, axis] + 0.5 - tile.side / 2).round(6))
            end = start + tile.side[0]
            assert start[0] <= 1e-3
            assert end[-1] >= length - 1e-3
            assert (np.diff(start) <= tile.side[0] / 2 + 1e-3).all()
            assert tile.side[0] > length or (start[0] >= -1e-3 and end[-1] <= length + 1e-3)


def test_views_are_the_same_for_every_picture_of_a_batch() -> None:
    """The views of the second picture are those of a picture alone."""
    alone, batch = tiles.views(1, 300, 200, 2), tiles.views(2, 300, 200, 2)
    second = batch[batch.picture == 1]
    for field in ("centre", "side", "angle", "scale"):
        assert np.array_equal(getattr(alone, field), getattr(second, field))


def detection(view: int, score: float, face: tuple[float, ...], hip: tuple[float, float], up: float) -> Detections:
    """A face's box (x0, y0, x1, y1), the hip, and the circle's point `up` pixels above it."""
    points = [[*face[:2]], [*face[2:]], [*hip], [hip[0], hip[1] - up]]
    return Detections(np.array([view]), np.array([score]), np.array([points], float))


@pytest.mark.parametrize(
    ("face", "hip", "up", "kept"),
    [
        ((40, 10, 50, 20), (50, 60), 30, True),
        ((-2, 10, 8, 20), (50, 60), 30, False),  # the tile's edge cuts the face
        ((40, 10, 50, 20), (50, 120), 30, False),  # the hip is outside
        ((40, 10, 50, 20), (50, 60), 55, False),  # 137 pixels of person in a tile of 100
    ],
)
def test_a_tile_reports_only_whom_it_sees_well(
    face: tuple[float, ...], hip: tuple[float, float], up: float, kept: bool
) -> None:
    """What a tile sees badly is dropped; a view of the whole picture reports the same person always."""
    found = detection(0, 0.9, face, hip, up)
    for scale, expected in ((2, kept), (0, True)):
        view = tiles.Views(
            np.array([0]), np.array([[49.5, 49.5]]), np.array([100.0]), np.array([0.0]), np.array([scale])
        )
        assert len(tiles.candidates(found, view)) == expected


def test_a_person_is_one_candidate_per_picture_and_scale() -> None:
    """Detections of one face merge within a picture and a scale, never across them."""
    looked = tiles.Views(
        np.array([0, 0, 0, 1]), np.full((4, 2), 49.5), np.full(4, 100.0), np.zeros(4), np.array([0, 2, 2, 2])
    )
    same = [detection(view, 0.9, (40, 10, 50, 20), (50, 60), 30) for view in range(4)]
    assert tiles.candidates(Detections.join(same), looked).picture.tolist() == [0, 0, 1]


def test_overlapping_faces_become_their_mean_by_score() -> None:
    """Weighted suppression: positions are averaged by score, the best score stays, others are left alone."""
    found = Detections.join(
        [
            detection(0, 0.6, (0, 0, 10, 10), (0, 0), 10),
            detection(0, 0.9, (1, 0, 11, 10), (5, 0), 10),
            detection(0, 0.7, (50, 50, 60, 60), (9, 9), 10),
        ]
    )
    kept = suppress(found)
    assert kept.score.tolist() == [0.9, 0.7]
    assert kept.points[0, 2, 0] == pytest.approx(5 * 0.9 / 1.5)
    assert kept.points[1] == pytest.approx(found.points[2])


def test_overlap_is_intersection_over_union() -> None:
    """Boxes 10 x 10: shifted by half they share 50 of 150, equal ones everything, distant ones nothing."""
    one = np.array([[0, 0], [10, 10]])
    many = np.array([[[5, 0], [15, 10]], one, [[20, 20], [30, 30]]])
    assert overlap(one, many) == pytest.approx([1 / 3, 1, 0])


def test_anchors_are_the_centres_of_the_cells() -> None:
    """Two a cell at stride 8, then 16, then six at 32, row by row; all inside the unit square."""
    found = anchors() * 224
    assert found.shape == (2254, 2)
    assert found[[0, 1, 2]].tolist() == [[4, 4], [4, 4], [12, 4]]
    assert found[2 * 28].tolist() == [4, 12]
    assert found[2 * 28 * 28].tolist() == [8, 8]
    assert found[-6:].tolist() == [[208, 208]] * 6


@pytest.mark.parametrize(("circle", "angle"), [((50, 20), 0), ((80, 50), 90), ((50, 80), 180), ((20, 50), -90)])
def test_a_region_stands_on_the_persons_feet(circle: tuple[float, float], angle: float) -> None:
    """Centred at the hip, 2.5 circle radii wide, turned so that hip to circle points up in it."""
    region = regions(np.array([0]), np.array([[50.0, 50.0]]), np.array([circle], float))
    assert region.side == pytest.approx(75)
    assert np.cos(region.angle - np.radians(angle)) == pytest.approx(1)
    assert region.place(np.array([[[0.5, 0.1]]]))[0, 0] == pytest.approx(circle)


def test_refinement_moves_to_the_heatmaps_centre_of_mass() -> None:
    """A point moves to the peak within three cells of it; with no peak there it stays."""
    heatmaps = torch.full((1, 3, 64, 64), -20.0)
    heatmaps[0, 0, 12, 10] = 5
    heatmaps[0, 1, 40, 40] = 5  # far from point 1
    heatmaps[0, 2, 0, 62:64] = 5  # between two cells, at the border
    points = torch.tensor([[[11.5, 11.5], [20.5, 20.5], [63.5, 0.5]]]) / 64
    refined = refine(points, heatmaps) * 64
    torch.testing.assert_close(refined[0], torch.tensor([[10, 12], [20.5, 20.5], [62.5, 0]]), atol=1e-3, rtol=0)


def pose(shift: float = 0, flag: float = 0.9, picture: int = 0, size: float = 100) -> Poses:
    """A pose with landmarks spread over size x size pixels."""
    points = np.random.default_rng(1).random((1, POINTS, 2)) * size + shift
    return Poses(np.array([picture]), np.array([flag]), points, np.full((1, POINTS), 0.8))


def test_joints_are_openposes() -> None:
    """Each of the 18 is the landmark of that name; the neck is between the shoulders and as sure as the less sure one."""
    landmarks = {  # by BlazePose's numbering
        **{"nose": 0, "left_eye": 2, "right_eye": 5, "left_ear": 7, "right_ear": 8},
        **{"left_shoulder": 11, "right_shoulder": 12, "left_elbow": 13, "right_elbow": 14, "left_wrist": 15},
        **{"right_wrist": 16, "left_hip": 23, "right_hip": 24, "left_knee": 25, "right_knee": 26},
        **{"left_ankle": 27, "right_ankle": 28},
    }
    found = pose()
    found.confidence[0, 11] = 0.2
    (body,) = poses.joints(found)
    for name, landmark in landmarks.items():
        assert body[JOINTS.index(name), :2].tolist() == found.points[0, landmark].tolist()
    neck = body[JOINTS.index("neck")]
    assert neck == pytest.approx([*(found.points[0, 11] + found.points[0, 12]) / 2, 0.2])


def test_joints_unseen_or_outside_are_missing() -> None:
    """Confidence of 0.3 and less, or a place outside of the picture's pixels, gives 0, 0, 0; the others are kept."""
    body = np.tile([[10.0, 10.0, 0.9]], (1, 18, 1))
    body[0, :4] = [10, 10, 0.3], [-0.6, 10, 0.9], [10, 19.5, 0.9], [19.4, -0.5, 0.9]
    seen = poses.visible(body, 20, 20)[0]
    assert seen.dtype == np.float32
    assert seen[:3].tolist() == [[0, 0, 0]] * 3
    assert seen[3:].astype(float) == pytest.approx(body[0, 3:])


def test_similarity_is_cocos() -> None:
    """1 for the same body; exp(-1/2) where every joint is off by 2 sigma of the body's size; 0 far away."""
    (body,) = poses.joints(pose())
    size = np.sqrt((body[:, :2].max(0) - body[:, :2].min(0)).prod())
    off = body.copy()
    off[:, 0] += 2 * poses.SIGMAS * size
    assert poses.similarity(body, body) == 1
    assert poses.similarity(body, off) == pytest.approx(np.exp(-0.5))
    assert poses.similarity(body, body + np.array([1e4, 0, 0])) < 1e-6


def test_one_person_is_kept_once_per_picture() -> None:
    """Of two poses of a person the one with the higher flag stays; the same pose in another picture stays too."""
    found = Poses.join([pose(flag=0.8), pose(1, flag=0.9), pose(flag=0.7, picture=1), pose(300, flag=0.6)])
    assert poses.suppress(found).flag.tolist() == [0.9, 0.7, 0.6]


def test_two_looks_must_agree() -> None:
    """A person is believed if the second look is alike and sure of it."""
    first = Poses.join([pose(), pose(), pose()])
    second = Poses.join([pose(2), pose(80), pose(2, flag=0.6)])
    assert poses.agree(first, second).tolist() == [True, False, False]
