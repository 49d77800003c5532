"""One placement, and one mirror, for picture and map."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.noise import edges, picture, png

from condprep.images.geometry import Geometry
from trainer.data.rows import Row
from trainer.data.transform import Transform, source_of


def test_a_row_at_its_training_size_is_untouched() -> None:
    """Picture and map come out bit for bit, at the square and at every bucket of the resolution."""
    for kind, size in (("canny", (64, 64)), ("depth", (512, 512)), (None, (384, 640))):
        row = Row("", png(picture(1, size)), (png(edges(1, size)),), ("",))
        transform = Transform(64 if size == (64, 64) else 512, "bucket", (kind,))
        pixels, condition = transform(row)
        assert not transform.place(size).changes(size)
        assert np.array_equal(pixels, picture(1, size))
        assert np.array_equal(condition[..., 0], edges(1, size))


@pytest.mark.parametrize("kind", ["canny", "pose", "segmentation"])
def test_maps_of_few_levels_get_no_new_ones(kind: str) -> None:
    """Nearest neighbour, up and down: a binary map stays binary."""
    for size in ((200, 160), (40, 48)):
        row = Row("", png(picture(1, size)), (png(edges(1, size)),), ("",))
        pixels, condition = Transform(64, "crop", (kind,))(row)
        assert pixels.shape == condition.shape == (64, 64, 3)
        assert set(np.unique(condition)) <= {0, 255}


@pytest.mark.parametrize("size", [(200, 160), (40, 48), (64, 64)])
def test_what_is_left_of_a_picture_is_that_picture(size: tuple[int, int]) -> None:
    """Of inpaint, at any size: each pixel is the picture's own or black, and nothing is mixed at the borders of what is missing."""
    left = np.where(edges(1, size)[..., None], picture(1, size), np.uint8(0))
    pixels, condition = Transform(64, "crop", ("inpaint",))(Row("", png(picture(1, size)), (png(left),), ("",)))
    assert ((condition == pixels) | (condition == 0)).all(2).all()
    assert 0 < condition.any(2).mean() < 1


@given(
    height=st.integers(16, 200),
    width=st.integers(16, 200),
    fit=st.sampled_from(["bucket", "crop"]),
    at=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    mirrored=st.booleans(),
    random=st.booleans(),
)
def test_picture_and_map_go_the_same_way(
    height: int, width: int, fit: Any, at: tuple[float, float], mirrored: bool, random: bool
) -> None:
    """A map that is the picture itself comes out as the picture does, whatever is drawn; sizes are those of the bucket."""
    data = png(picture(2, (height, width)))
    transform = Transform(64, fit, (None,), random)
    pixels, condition = transform(Row("", data, (data,), ("",)), mirrored, at)
    assert np.array_equal(pixels, condition)
    placement = transform.place((height, width), at)
    assert pixels.shape[:2] == placement.canvas
    top, left, h, w = placement.box
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w


@given(
    height=st.integers(16, 4000),
    width=st.integers(16, 4000),
    fit=st.sampled_from(["bucket", "crop", "pad", "keep"]),
)
def test_a_stored_picture_says_what_its_source_was(height: int, width: int, fit: Any) -> None:
    """From the transform of any build: the source's size to a pixel, and exactly what was cut off above and left."""
    placement = Geometry(512, fit, max_upscale=math.inf).place((height, width))
    source, crop = source_of(placement.transform, placement.canvas)
    scale = placement.scale
    assert source == pytest.approx((height, width), abs=1 + 1 / min(scale))
    assert crop == pytest.approx((placement.box[0] * scale[0], placement.box[1] * scale[1]))
    assert source_of(None, (64, 32)) == ((64, 32), (0, 0))


def test_a_random_crop_reaches_every_place() -> None:
    """Of a row wider than its bucket every offset is drawn, and only the free side moves."""
    transform = Transform(64, "crop", (None,), random=True)
    boxes = {transform.place((64, 68), (0.3, left / 100)).box for left in range(100)}
    assert boxes == {(0, left, 64, 64) for left in range(5)}


def test_a_mirror_is_a_mirror() -> None:
    """Mirrored picture and map are the others, seen from behind."""
    row = Row("", png(picture(1)), (png(edges(1)),), ("",))
    transform = Transform(64, "crop", ("canny",))
    for side, other in zip(transform(row), transform(row, mirrored=True)):
        assert np.array_equal(side[:, ::-1], other)
