"""Comparison: what is planted is told, what is right is left alone, what says nothing is unknown."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data
from support.drawings import body, canny, drawn, enlarged, filled, jpeg, photo, shifted, soft
from support.thorough import slow_ones

from condprep.annotators.openpose.draw import draw_bodies
from condprep.verification.alignment.comparison import Alignment, compare, compare_picture
from condprep.verification.alignment.offsets import OffsetRun, Offsets, describe
from condprep.verification.alignment.registration import (
    FLIPS,
    TURNS,
    UPRIGHT,
    correlation,
    lines,
    peak,
    spectrum,
    steps,
)
from condprep.verification.poses.comparison import compare_poses

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "camera")


@cache
def depth() -> tuple[np.ndarray, np.ndarray]:
    """A photograph (512, 512, 3) and its measured depth (512, 512), near is white."""
    picture, _, disparity = data.stereo_motorcycle()
    near = np.where(np.isfinite(disparity), disparity, 0)
    grey = (near / near.max() * 255).astype(np.uint8)
    holes = cv2.dilate((near == 0).astype(np.uint8), np.ones((3, 3)))
    grey = cv2.inpaint(grey, holes, 3, cv2.INPAINT_TELEA)
    return tuple(cv2.resize(p[:, 100:600], (512, 512), interpolation=cv2.INTER_AREA) for p in (picture, grey))  # type: ignore[return-value]


DEFECTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str, dict[str, Any]]] = {
    "right": (lambda m: shifted(m, 4, 0), "shifted", {"shift": (4, 0)}),
    "up": (lambda m: shifted(m, 0, -4), "shifted", {"shift": (0, -4)}),
    "far": (lambda m: shifted(m, -37, 21), "shifted", {"shift": (-37, 21)}),
    "mirror": (lambda m: m[:, ::-1], "flipped", {"orientation": "flipped horizontally"}),
    "upside down": (lambda m: m[::-1], "flipped", {"orientation": "flipped vertically"}),
    "half turn": (lambda m: m[::-1, ::-1], "turned", {"orientation": "turned by 180 degrees"}),
    "quarter turn": (lambda m: np.rot90(m), "turned", {"orientation": "turned by 90 degrees anticlockwise"}),
    "smaller": (lambda m: enlarged(m, 0.9), "scaled", {"scale": pytest.approx(0.9, abs=0.011)}),
    "cropped": (
        lambda m: cv2.resize(m[50:460, 30:440], (512, 512)),
        "cropped",
        {"scale": pytest.approx(512 / 410, abs=0.02)},
    ),
}


def check(found: Alignment, verdict: str, values: dict[str, Any]) -> None:
    assert found.verdict == verdict, found
    assert found.wrong
    assert found.reason.startswith("condition ")
    for name, value in values.items():
        assert getattr(found, name) == value, found


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("annotate", [canny, soft])
def test_defects_are_told_from_the_picture_alone(annotate: Callable[..., np.ndarray], defect: str) -> None:
    """Every planted shift (to the pixel), flip, turn, scale and crop of a map of lines is named as what it is."""
    plant, verdict, values = DEFECTS[defect]
    kind = "canny" if annotate is canny else "softedge"
    for name in NAMES[:2]:
        picture = photo(name)
        check(compare_picture(picture, np.ascontiguousarray(plant(annotate(picture))), kind), verdict, values)


@pytest.mark.parametrize("annotate", [soft, filled])
@pytest.mark.parametrize("kind", ["lineart", "unclear"])
def test_maps_lie_as_what_they_are_whatever_they_are_called(annotate: Callable[..., np.ndarray], kind: str) -> None:
    """Soft edges fit as lines and filled line art as steps, also where nobody says so: to the pixel, moved or not."""
    for name in NAMES[:2]:
        picture = photo(name)
        stored = annotate(picture)
        assert compare_picture(jpeg(picture), stored, kind).verdict == "aligned"
        check(compare_picture(jpeg(picture), shifted(stored, -4, 0), kind), "shifted", {"shift": (-4, 0)})


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_of_depth_are_told_from_the_picture_alone(defect: str) -> None:
    """The same holds for a measured depth map, whose shift is told to 1 px."""
    plant, verdict, values = DEFECTS[defect]
    picture, near = depth()
    found = compare_picture(picture, np.ascontiguousarray(plant(near)), "depth")
    moved = values.get("shift")
    check(found, verdict, {} if moved else values)
    assert moved is None or np.abs(np.subtract(found.shift, moved)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("defect", [*DEFECTS, "two pixels", "two percent"])
@pytest.mark.parametrize("annotate", [canny, soft])
def test_defects_are_told_from_the_map_made_again(annotate: Callable[..., np.ndarray], defect: str) -> None:
    """With a known annotator two pixels and two percent are told as well, though the picture went through a JPEG."""
    more = {
        "two pixels": (lambda m: shifted(m, 0, 2), "shifted", {"shift": (0, 2)}),
        "two percent": (lambda m: enlarged(m, 0.98), "scaled", {"scale": pytest.approx(0.98, abs=0.006)}),
    }
    plant, verdict, values = (DEFECTS | more)[defect]
    picture = photo("coffee")
    again, stored = annotate(jpeg(picture)), annotate(picture)
    check(compare(again, np.ascontiguousarray(plant(stored))), verdict, values)


@pytest.mark.parametrize("scale", [0.98, 1.02])
@pytest.mark.parametrize("name", ["rocket", *slow_ones(["cell", "brick", "coffee"])])
def test_two_percent_are_told_where_the_pair_still_fits(name: str, scale: float) -> None:
    """A small map that is resized by 2 % and laid into the same corner: much of it fits as it is, or fits itself turned."""
    picture = photo(name, 256, 256)
    for annotate in (canny, soft):
        stored = np.zeros((256, 256), np.uint8)
        resized = cv2.resize(annotate(picture), (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)[:256, :256]
        stored[: resized.shape[0], : resized.shape[1]] = resized
        found = compare(annotate(jpeg(picture, 80)), stored)
        assert (found.verdict, found.scale) == ("scaled", pytest.approx(scale, abs=0.006)), found


@pytest.mark.parametrize("moved", [(4, 0), (-3, 5)])
def test_a_shift_is_not_called_a_scale(moved: tuple[int, int]) -> None:
    """A map that moved is shifted to the pixel, never scaled by less than a scale that would be told."""
    for name in ("cell", "brick", "coffee"):
        picture = photo(name, 256, 256)
        stored = np.roll(canny(picture), moved[::-1], (0, 1))
        found = compare(canny(jpeg(picture, 80)), stored)
        assert (found.verdict, found.shift) == ("shifted", moved), found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(448, 640), *slow_ones([(512, 512)])])
def test_right_pairs_are_left_alone(name: str, size: tuple[int, int]) -> None:
    """JPEG compression, other Canny thresholds, inverted lines and three channels are no defects of alignment."""
    picture = photo(name, *size)
    maps = [canny(picture), canny(picture, 30, 90), 255 - canny(picture), np.repeat(canny(picture)[..., None], 3, 2)]
    for stored in maps:
        assert compare_picture(jpeg(picture), stored, "canny").verdict == "aligned"
    assert compare_picture(jpeg(picture), soft(picture), "softedge").verdict == "aligned"
    assert compare(canny(jpeg(picture)), maps[1]).verdict == "aligned"


@pytest.mark.slow
def test_the_map_of_another_picture_is_told() -> None:
    """Of five photographs no map passes for that of another, with the annotator or without, and 90 % are named so."""
    pictures = [photo(name, 256, 256) for name in NAMES]
    found = [compare_picture(a, canny(b), "canny") for a in pictures for b in pictures if a is not b]
    found += [compare(canny(a), canny(b)) for a in pictures for b in pictures if a is not b]
    assert all(alignment.wrong for alignment in found)
    assert np.mean([alignment.verdict == "other picture" for alignment in found]) >= 0.9
    assert compare_picture(photo(NAMES[0]), depth()[1], "depth").verdict == "other picture"


def test_a_map_that_lies_on_its_side_is_turned() -> None:
    """A map with the picture's size transposed is named by the way it was turned."""
    picture = photo("astronaut", 448, 640)
    stored = np.ascontiguousarray(np.rot90(canny(picture), -1))
    assert compare_picture(picture, stored, "canny").orientation == "turned by 90 degrees clockwise"


def test_a_map_of_another_size_is_compared_at_the_picture_s() -> None:
    """A map of half the size in both directions is aligned: its size is for another check to tell."""
    picture = photo("astronaut")
    assert compare_picture(picture, cv2.resize(soft(picture), (256, 256)), "softedge").verdict == "aligned"


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 64), (512, 512)])
def test_what_says_nothing_is_unknown(size: tuple[int, int]) -> None:
    """Constant maps and pictures, maps with nobody in them and noise of one grey level never raise an alarm."""
    picture = np.ascontiguousarray(photo("astronaut")[: size[0], : size[1]])
    flat = np.full(size, 7, np.uint8)
    faint = np.random.default_rng(0).integers(100, 102, size, dtype=np.uint8)
    for stored in (flat, faint):
        assert compare_picture(picture, stored, "depth").verdict == "unknown"
        assert compare(canny(picture), stored).verdict == "unknown"
        assert compare_picture(np.repeat(stored[..., None], 3, 2), canny(picture), "canny").verdict == "unknown"
    assert compare_poses(np.zeros((*size, 3), np.uint8), drawn((200, 260, 300))).verdict == "unknown"
    assert compare_picture(picture, drawn((200, 260, 300)), "pose").verdict == "unknown"


def test_of_one_annotator_nothing_is_not_something() -> None:
    """An empty map of a picture with edges, and edges of an empty one, are another's where the very annotator says so.

    A few pixels may be the JPEG's work, and other thresholds find other edges: these say nothing.
    """
    edges = canny(photo("astronaut"))
    nothing, speck = np.zeros_like(edges), np.zeros_like(edges)
    speck[100:110, 100:110] = 255
    for again, stored in ((edges, nothing), (nothing, edges)):
        assert compare(again, stored, own=True).verdict == "other picture"
        assert compare(again, stored).verdict == "unknown"
    assert not compare(nothing, speck, own=True).wrong
    assert not compare(speck, nothing, own=True).wrong


def test_poses_of_one_annotator_are_told_apart() -> None:
    """A drawn pose that moved by 2 px, was flipped, turned, or is somebody else's is told; the same is aligned."""
    found = drawn((170, 260, 330), (380, 300, 240))
    assert compare_poses(found, found).verdict == "aligned"
    assert compare_poses(found, shifted(found, 2, 0)).shift == (2, 0)
    assert compare_poses(found, np.ascontiguousarray(found[:, ::-1])).orientation == "flipped horizontally"
    assert compare_poses(found, np.ascontiguousarray(np.rot90(found))).orientation.startswith("turned by 90")
    assert compare_poses(found, drawn((120, 330, 200, -0.4), (330, 150, 260, 0.1))).wrong


def test_poses_of_two_annotators_are_told_apart_roughly() -> None:
    """Joints a few pixels off are still the same pose; flipped ones are not."""
    found = drawn((170, 260, 330), (380, 300, 240))
    rng = np.random.default_rng(2)
    people = [body(170, 260, 330), body(380, 300, 240)]
    for person in people:
        person[:, :2] += rng.normal(0, 4, (18, 2))
    stored = draw_bodies(people, 512, 512)
    assert compare_poses(found, stored).verdict == "aligned"
    assert compare_poses(found, shifted(stored, 3, -3)).verdict == "aligned"  # nobody can say whose joint is right
    assert compare_poses(found, np.ascontiguousarray(stored[::-1])).verdict == "flipped"


@pytest.mark.parametrize("field", [steps, lines])
@pytest.mark.parametrize("orientation", [UPRIGHT, *FLIPS, *TURNS], ids=lambda o: o.name or "upright")
def test_a_field_is_turned_as_its_picture_is(field: Callable[..., np.ndarray], orientation: Any) -> None:
    """Undoing an orientation on the field equals the field of the picture upright, whatever its shape."""
    upright = canny(photo("coffee", 96, 128))
    stored = np.rot90(upright[:, ::-1] if orientation.mirrored else upright, orientation.quarters)
    np.testing.assert_allclose(
        orientation.undo(field(np.ascontiguousarray(stored))), field(upright), rtol=2e-3, atol=0.02
    )


def test_a_shift_is_found_between_pixels() -> None:
    """The parabola finds half a pixel to a tenth, and a picture is at no shift from itself."""
    large = photo("coffee")
    a, b = (cv2.resize(large[:, x : x + 400], (200, 256), interpolation=cv2.INTER_AREA) for x in (20, 19))
    spectra = [spectrum(steps(p), (256, 200)) for p in (a, b)]
    assert peak(correlation(*spectra)).dx == pytest.approx(0.5, abs=0.1)
    assert peak(correlation(spectra[0], spectra[0]))[1:] == (0, 0)


@pytest.fixture(scope="module")
def columns() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Descriptors of 60 crops of photographs and of their Canny maps."""
    crops = [
        photo(n, 640, 640)[y : y + 256, x : x + 256] for n in NAMES for y in (0, 192, 384) for x in (0, 100, 200, 384)
    ]
    crops = [crops[i] for i in np.random.default_rng(0).permutation(len(crops))]
    return [describe(crop) for crop in crops], [describe(canny(crop), "canny") for crop in crops]


def runs(columns: tuple[list[np.ndarray], list[np.ndarray]], order: np.ndarray, reach: int = 3) -> list[OffsetRun]:
    offsets = Offsets(reach)
    for picture, row in zip(columns[0], order):
        offsets.add(picture, columns[1][row])
    return offsets.runs()


def test_columns_out_of_step_are_found(columns: Any) -> None:
    """An offset is told with its sign and its first row, give or take a row that says nothing."""
    rows = np.arange(60)
    assert runs(columns, rows) == [OffsetRun(0, 59, 0)]
    for offset in (-2, 1, 3):
        before, after = runs(columns, np.where(rows < 25, rows, (rows + offset) % 60))
        assert (before.first, before.offset, after.last, after.offset) == (0, 0, 59, offset)
        assert abs(after.first - 25) <= 1
    assert "off by one from row 0:" in runs(columns, np.roll(rows, -1))[0].reason(60)


def test_a_shuffled_column_is_found(columns: Any) -> None:
    """A shuffled stretch belongs to none; a few swapped neighbours are no offset."""
    rows = np.arange(60)
    shuffled = np.r_[:20, 20 + np.random.default_rng(1).permutation(40)]
    assert [run.offset for run in runs(columns, shuffled)] == [0, None]
    swapped = rows.copy()
    swapped[[10, 11, 40, 41]] = 11, 10, 41, 40
    assert runs(columns, swapped) == [OffsetRun(0, 59, 0)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_short_datasets_have_no_offset(columns: Any, count: int) -> None:
    """Any number of rows is taken, every row is in exactly one run, and a few right rows are no alarm."""
    found = runs(columns, np.arange(count))
    assert [(run.first, run.last, run.offset) for run in found] == ([(0, count - 1, 0)] if count else [])


def test_rows_without_edges_say_nothing() -> None:
    """A dataset of empty maps, or of one picture over and over, is not out of step."""
    offsets, same = Offsets(), Offsets()
    picture = photo("coffee", 256, 256)
    for _ in range(30):
        offsets.add(describe(picture), describe(np.zeros((64, 64), np.uint8), "canny"))
        same.add(describe(picture), describe(canny(picture), "canny"))
    assert offsets.runs() == same.runs() == [OffsetRun(0, 29, 0)]
