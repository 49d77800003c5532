"""tile, blur, gray, color and scribble: what each keeps of a picture, at any size, and that nothing is moved."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from support.openpose_parts import as_batch, photo

from condprep.annotators.filters import blur, color, intensity, luminance, tile, xdog
from condprep.annotators.registry import load_annotator
from condprep.errors import AnnotatorError

FILTERS = ("tile", "blur", "gray", "gray:intensity", "color", "scribble:xdog")


@pytest.mark.parametrize("name", FILTERS)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_a_map_has_the_picture_s_size(name, height, width, seed):
    """Of one pixel and of any shape; the same alone, among others, and by the filter's own door."""
    rng = np.random.default_rng(seed)
    pictures = torch.from_numpy(rng.integers(0, 256, (3, 3, height, width), np.uint8))
    annotator = load_annotator(name, device="cpu")
    together = annotator(pictures, ["a", "b", "c"]).maps
    assert together.shape[2:] == (height, width)
    assert together.dtype == torch.uint8
    for at in range(3):
        assert torch.equal(annotator(pictures[at : at + 1], ["x"]).maps[0], together[at])
        alone, further = annotator.picture(np.ascontiguousarray(pictures[at].permute(1, 2, 0).numpy()), "x")
        whole = together[at].permute(1, 2, 0).numpy()
        assert np.array_equal(alone if alone.ndim == 3 else alone[..., None], whole)
        assert not further


@pytest.mark.parametrize("size", [(512, 512), (333, 517), (400, 360)])
@pytest.mark.parametrize("filtered", [lambda rgb: tile(rgb, 8), lambda rgb: tile(rgb, 5), lambda rgb: blur(rgb, 4)])
def test_nothing_is_moved(filtered, size):
    """The map lies on the picture within a tenth of a pixel. (comfyui_controlnet_aux's tile is 3.5 pixels aside.)"""
    rgb = photo(*size)
    grey, seen = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY).astype(np.float32) for one in (rgb, filtered(rgb)))
    window = cv2.createHanningWindow(size[::-1], cv2.CV_32F)
    soft = cv2.GaussianBlur(grey, (0, 0), 4)
    (right, down), _ = cv2.phaseCorrelate(soft, cv2.GaussianBlur(seen, (0, 0), 4), window)
    assert max(abs(right), abs(down)) < 0.1


def test_tile_keeps_means_and_loses_details():
    """Of squares of one colour all is kept; of a checkerboard of single pixels only its mean."""
    squares = np.kron(np.random.default_rng(1).integers(60, 200, (6, 9, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    small = cv2.resize(tile(squares, 8), (9, 6), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(small - squares[::8, ::8]).mean() < 12
    board = np.indices((64, 80)).sum(0) % 2 * 200
    assert np.abs(tile(np.repeat(board[..., None].astype(np.uint8), 3, 2), 8).astype(int) - 100).max() <= 1


def test_gray_is_the_reference_s():
    """Lightness as OpenCV has it where red and blue are exchanged, and the largest colour; gamma bends 0..1, its ends stay."""
    rgb = data.astronaut()
    assert np.array_equal(luminance(rgb, 1.0), cv2.cvtColor(rgb[..., ::-1].copy(), cv2.COLOR_RGB2LAB)[..., 0])
    assert np.array_equal(intensity(rgb, 1.0), cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 2])
    steps = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    bent = intensity(steps, 2.2)[0].astype(int)
    assert (bent[0], bent[-1]) == (0, 255)
    assert np.abs(bent - 255 * (np.arange(256) / 255) ** 2.2).max() <= 1
    assert (np.diff(bent) >= 0).all()


@given(st.integers(1, 200), st.integers(1, 200))
def test_color_has_a_colour_a_square(height, width):
    """As many rows and columns of squares as 64 goes into the sides, one at least, each of one colour."""
    rgb = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)
    seen = color(rgb)
    rows, columns = max(1, height // 64), max(1, width // 64)
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) <= rows * columns
    assert (np.abs(np.diff(seen.astype(int), axis=0)).max((1, 2)) > 0).sum() <= rows - 1
    assert (np.abs(np.diff(seen.astype(int), axis=1)).max((0, 2)) > 0).sum() <= columns - 1


def test_xdog_draws_what_is_darker_than_around_it():
    """A dark line on light is a stroke, a light one on dark is its two sides, and flat is empty; a lower threshold draws more."""
    page = np.full((80, 80, 3), 200, np.uint8)
    assert not xdog(page, 32).any()
    line = page.copy()
    line[:, 39:42] = 20
    seen = xdog(line, 32)
    assert seen[10:70, 40].all()
    assert set(np.unique(seen)) == {0, 255}
    assert not seen[:, :25].any()
    rgb = data.astronaut()
    amounts = [xdog(rgb, threshold).mean() for threshold in (64, 32, 8)]
    assert amounts == sorted(amounts)
    assert amounts[0] < amounts[2]


def test_parameters_are_recorded_and_held_to_their_ranges():
    """What was set is in the provenance, with the defaults; what has no meaning is refused by name."""
    assert load_annotator("tile", params={"factor": 4}, device="cpu").provenance["parameters"] == {"factor": 4}
    gray = load_annotator("gray", device="cpu")
    assert (gray.variant, gray.provenance["parameters"]) == ("luminance", {"gamma": 1.0})
    assert load_annotator("scribble", device="cpu").variant == "xdog"
    for name, params, said in (
        ("tile", {"factor": 1}, r"tile\.factor = 1"),
        ("blur", {"sigma": 0}, r"blur\.sigma = 0"),
        ("color", {"cells": 3}, "no parameter"),
    ):
        with pytest.raises(AnnotatorError, match=said):
            load_annotator(name, params=params, device="cpu")
    with pytest.raises(AnnotatorError, match="float"):
        load_annotator("tile", device="cpu")(as_batch(photo(8, 8)).float(), ["a"])
