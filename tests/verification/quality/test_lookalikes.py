"""Lookalikes: the search equals brute force; copies of a photograph are found, other photographs are not."""

from __future__ import annotations

import io
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from condprep.verification.quality.duplicates import surveys
from condprep.verification.quality.lookalikes import (
    BANDS,
    CROPS,
    RADIUS,
    SIDE,
    comparable,
    cut,
    grey_thumbnail,
    hashes,
    near_pairs,
    register,
    same_picture,
)
from condprep.verification.quality.picture import greyed


def brute_force(codes: np.ndarray, radius: int) -> set[tuple[int, int]]:
    """(a, b): the hash of b is near that of a or of a crop of a."""
    apart = np.bitwise_count(codes[:, :, None] ^ codes[None, None, :, 0]).min(1)
    return {(a, b) for a, b in np.argwhere(apart <= radius).tolist() if a != b}


@pytest.mark.parametrize("bands", BANDS.values())
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), count=st.integers(1, 30), flips=st.integers(0, 14), radius=st.integers(0, RADIUS)
)
def test_the_search_equals_brute_force(
    bands: Sequence[tuple[int, int]], seed: int, count: int, flips: int, radius: int
) -> None:
    """Every pair within the radius is found, each once, and no other: of random hashes and of others a few bits away."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**63, (count, CROPS), np.uint64)
    for copy in range(0, count - 1, 2):  # of some crop of the picture before
        bits = rng.choice(64, rng.integers(0, flips + 1), replace=False).astype(np.uint64)
        codes[copy + 1, 0] = codes[copy, rng.integers(CROPS)] ^ np.bitwise_or.reduce(np.uint64(1) << bits, initial=0)
    pairs = near_pairs(codes, radius, first=count, bands=bands)
    assert {(a, b) for a, b, _ in pairs.tolist()} == brute_force(codes, radius)
    assert len(pairs) == len(np.unique(pairs[:, :2], axis=0))
    apart = np.bitwise_count(codes[pairs[:, 0]] ^ codes[pairs[:, 1], :1])
    assert np.array_equal(pairs[:, 2], apart.argmin(1))  # with the crop that is nearest


def test_a_thousand_copies_do_not_become_a_million_pairs() -> None:
    """With more lookalikes than `first` in a place, each picture still has some, and the pairs grow with the pictures."""
    codes = np.full((1000, CROPS), 12345, np.uint64)
    pairs = near_pairs(codes, first=8)
    assert set(pairs[:, 1].tolist()) == set(range(1000))
    assert len(pairs) < 1000 * 8 * 70


@pytest.mark.parametrize("bands", BANDS.values())
def test_the_bands_promise_the_radius(bands: Sequence[tuple[int, int]]) -> None:
    """They lie in the 64 bits, and a hash that is missed by all of them is further away than RADIUS bits."""
    assert sum(width for width, _ in bands) <= 64
    assert sum(reach + 1 for _, reach in bands) > RADIUS


def test_a_radius_that_the_bands_cannot_promise_is_refused() -> None:
    """More than RADIUS bits could be spread over all bands: an error, no silent loss."""
    with pytest.raises(ValueError, match="up to 9 bits"):
        near_pairs(np.zeros((1, CROPS), np.uint64), RADIUS + 1)


def photographs() -> list[np.ndarray]:
    """Pieces of scikit-image's photographs that do not overlap, (256, 256, 3)."""
    from skimage import data

    pictures = [data.astronaut(), data.chelsea()[:, :384], data.coffee(), data.rocket(), data.immunohistochemistry()]
    return [
        cv2.resize(np.ascontiguousarray(picture[y : y + 190, x : x + 190]), (256, 256), interpolation=cv2.INTER_CUBIC)
        for picture in pictures
        for y in range(0, picture.shape[0] - 189, 190)
        for x in range(0, picture.shape[1] - 189, 190)
    ]


def cropped(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture[9:, : 256 - 4], (256, 256), interpolation=cv2.INTER_AREA)


def compressed(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=40)
    return np.array(Image.open(file))


def lighter(picture: np.ndarray) -> np.ndarray:
    return np.clip(picture * 1.2 + 8, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [cropped, compressed, lighter])
def test_a_copy_is_found_and_no_other_picture(change: object) -> None:
    """Cropped by 4 %, saved as JPEG of quality 40 or made lighter, a photograph is found again; no pair of others is."""
    assert callable(change)
    pictures = photographs()
    count = len(pictures)
    thumbnails = np.array([grey_thumbnail(greyed(picture)) for picture in [*pictures, *map(change, pictures)]])
    pairs = near_pairs(hashes(thumbnails))
    found = {(a % count, b % count) for a, b, _ in pairs[same_picture(thumbnails, pairs)].tolist()}
    assert {a for a, b in found if a == b} >= set(range(count)) - {
        n for n in range(count) if not comparable(thumbnails)[n]
    }
    assert all(a == b for a, b in found)


@settings(max_examples=30, deadline=None)
@given(scale=st.tuples(*[st.floats(0.88, 1.0)] * 2), at=st.tuples(*[st.floats(0, 1)] * 2), seed=st.integers(0, 99))
def test_the_second_look_finds_the_crop(scale: tuple[float, float], at: tuple[float, float], seed: int) -> None:
    """Registration gives the place of a crop back, to a hundredth of the side, whatever its gain and offset are."""
    rng = np.random.default_rng(seed)
    whole = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), (0, 0), 2)[None] * 400 + 128
    place = np.array([[scale[0], at[0] * (1 - scale[0]), scale[1], at[1] * (1 - scale[1])]])
    crop = cut(whole, place) * 0.7 + 20
    found = register(whole, crop, np.array([[0.96, 0.02, 0.96, 0.02]]))
    assert np.abs(found - place).max() < 0.01


def test_repeats_are_told_within_a_split_and_between_splits() -> None:
    """Equal pixels are told wherever they lie; a split's own lookalikes also where another split has the picture, too."""
    picture = photographs()[0]
    rows = [("train", picture), ("validation", picture), ("validation", compressed(picture))]
    rows += [("validation", lighter(picture)), ("validation", compressed(picture))]
    found = surveys()
    for split, rgb in rows:
        pixels = int(rgb.astype(np.int64).sum())  # no two of these have the same
        thumbnail = grey_thumbnail(greyed(rgb)).tobytes()
        for survey in found:
            survey.add({"split": split, "pixels": pixels, "thumbnail": thumbnail})
    told = {survey.name: [(one[0], one[2]) for one in survey.finish() if len(one) == 3] for survey in found}
    assert told == {"duplicate": [(1, 0), (4, 2)], "near-duplicate": [(3, 2)], "leak": [(1, 0), (2, 0), (3, 0)]}


def test_hashes_do_not_know_brightness_and_contrast() -> None:
    """Twice the contrast and another brightness, without clipping, are the same hashes."""
    rng = np.random.default_rng(0)
    calm = rng.integers(20, 60, (5, SIDE, SIDE), np.uint8)
    assert np.array_equal(hashes(calm), hashes(calm * 2 + 30))


def test_hashes_of_some_rows_are_those_of_all() -> None:
    """`rows` chooses, and changes nothing."""
    thumbnails = np.random.default_rng(1).integers(0, 256, (9, SIDE, SIDE), np.uint8)
    rows = np.array([2, 3, 8])
    assert np.array_equal(hashes(thumbnails, rows), hashes(thumbnails)[rows])


def test_a_plain_picture_is_like_no_other() -> None:
    """One colour, or noise of a level or two: nothing to compare, so no duplicates of each other."""
    noise = np.random.default_rng(0).integers(0, 3, (SIDE, SIDE), np.uint8)
    assert comparable(np.stack([np.full((SIDE, SIDE), 200, np.uint8), noise])).tolist() == [False, False]
