"""What makes the comparison of picture and map fast changes none of its numbers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from condprep.verification.alignment.multiscale import MultiscalePair
from condprep.verification.alignment.registration import (
    FLIPS,
    UPRIGHT,
    _centred,
    correlation,
    lines,
    spectrum,
    steps,
    tensor,
)
from condprep.verification.features import _median


@pytest.fixture(scope="module")
def pair() -> MultiscalePair:
    """A photograph, 128 x 96, and its edges."""
    picture = cv2.resize(data.coffee(), (128, 96), interpolation=cv2.INTER_AREA)
    return MultiscalePair(picture, cv2.Canny(picture, 100, 200), lines)


def test_spectra_are_compared_together_as_one_by_one(pair: MultiscalePair) -> None:
    """A stack of spectra gives the correlations that each gives alone, bit for bit."""
    target = spectrum(steps(pair.picture), (96, 128))
    spectra = np.stack([spectrum(turned.undo(lines(pair.stored)), (96, 128)) for turned in (UPRIGHT, *FLIPS)])
    for alone, together in zip(spectra, correlation(target, spectra), strict=True):
        assert np.array_equal(correlation(target, alone), together)


def test_ways_looked_at_together_score_what_each_scores(pair: MultiscalePair) -> None:
    """Orientations and scales looked at all at once have the scores that each has by itself, bit for bit."""
    view = pair.at(128)
    ways = [*((turned, 1.0) for turned in FLIPS), (UPRIGHT, 0.97), (UPRIGHT, 1.05)]
    assert view.scores(ways) == [view.fit(*way).score for way in ways]


def test_lines_share_what_their_tensor_is_made_of(pair: MultiscalePair) -> None:
    """The direction of a map's lines is that of its own tensor, smoothed."""
    re, im = (cv2.GaussianBlur(part, (0, 0), 1.5)[8:-8, 8:-8] for part in tensor(pair.stored))
    field = lines(pair.stored)[8:-8, 8:-8]
    strong = np.abs(field) > np.quantile(np.abs(field), 0.8)  # where the mean that was taken off does not matter
    turned = np.angle(field[strong] * np.conj(re[strong] + 1j * im[strong]))
    assert np.median(np.abs(turned)) < 0.05


def test_the_mean_of_a_field_is_taken_off_part_by_part() -> None:
    """Inside of its border a field is direction times strength less the mean of each part; the border is 0."""
    re, im, strength = np.random.default_rng(0).normal(size=(3, 40, 30)).astype(np.float32)
    found, inside = _centred((re, im), strength), (slice(4, -4), slice(4, -4))
    for part, made in ((re, found.real), (im, found.imag)):
        wanted = (part * strength)[inside]
        np.testing.assert_allclose(made[inside], wanted - wanted.mean(), atol=1e-6)
    found[inside] = 0
    assert not found.any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 9), (8, 8), (250, 256)])
def test_a_median_by_counting_is_that_of_numpy(shape: tuple[int, int]) -> None:
    """Of an odd and of an even number of pixels, of many levels and of two."""
    rng = np.random.default_rng(0)
    for grey in (rng.integers(0, 256, shape, np.uint8), rng.integers(0, 2, shape, np.uint8) * np.uint8(255)):
        assert _median(grey) == np.median(grey)
