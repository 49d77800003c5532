"""Geometry: exact sizes, exact transforms, nothing enlarged beyond what was allowed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.thorough import share

from condprep.errors import Rejected
from condprep.images.geometry import Geometry, buckets, nearest_bucket, pad, resize

sides = st.integers(1, 5000)
resolutions = st.sampled_from([64, 256, 320, 512, 768, 1000, 1024])
free = {"max_upscale": math.inf}


@given(height=sides, width=sides, resolution=resolutions, fit=st.sampled_from(["crop", "bucket", "pad", "keep"]))
@settings(max_examples=share(500))
def test_a_placement_stays_inside_its_picture_and_its_canvas(
    height: int, width: int, resolution: int, fit: str
) -> None:
    """The box lies in the source, the content on the canvas, and the transform maps box corners onto content corners."""
    placement = Geometry(resolution, fit, **free).place((height, width))  # type: ignore[arg-type]
    top, left, h, w = placement.box
    assert h >= 1
    assert w >= 1
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    oy, ox = placement.offset
    assert oy + placement.content[0] <= placement.canvas[0]
    assert ox + placement.content[1] <= placement.canvas[1]
    sx, _, tx, _, sy, ty = placement.transform
    assert sx * left + tx == pytest.approx(ox, abs=1e-6)
    assert sy * (top + h) + ty == pytest.approx(oy + placement.content[0], abs=1e-6)


@given(height=sides, width=sides, resolution=resolutions)
def test_crop_keeps_the_aspect_exactly(height: int, width: int, resolution: int) -> None:
    """crop takes the middle square of the shorter side: both scales are the same number."""
    placement = Geometry(resolution, "crop", **free).place((height, width))
    assert placement.box[2:] == (min(height, width),) * 2
    assert placement.scale[0] == placement.scale[1]
    assert placement.canvas == (resolution, resolution)


@given(height=sides, width=sides, resolution=resolutions)
def test_bucket_loses_at_most_the_aspect_difference(height: int, width: int, resolution: int) -> None:
    """A bucket covers one side of the picture wholly, and distorts by at most half a source pixel."""
    placement = Geometry(resolution, "bucket", **free).place((height, width))
    _, _, h, w = placement.box
    assert h == height or w == width
    wanted_h, wanted_w = (
        min(height, width * placement.canvas[0] / placement.canvas[1]),
        min(width, height * placement.canvas[1] / placement.canvas[0]),
    )
    assert abs(h - max(wanted_h, 1)) <= 0.5
    assert abs(w - max(wanted_w, 1)) <= 0.5


@given(height=sides, width=sides, resolution=resolutions)
def test_the_nearest_bucket_is_nearest(height: int, width: int, resolution: int) -> None:
    """No bucket is nearer in log aspect; sides are multiples of 64, and the area is at most the resolution squared."""

    def distance(bucket: tuple[int, int]) -> float:
        return abs(math.log(bucket[1] / bucket[0]) - math.log(width / height))

    chosen = nearest_bucket((height, width), resolution)
    assert distance(chosen) <= min(map(distance, buckets(resolution))) + 1e-9
    assert all(side % 64 == 0 for side in chosen)
    assert chosen[0] * chosen[1] <= resolution**2


def test_buckets_are_symmetric_and_hold_the_square() -> None:
    """For every bucket there is its transpose; 512 gives the sizes that Stable Diffusion trainers know."""
    for resolution in (64, 512, 768, 1024):
        assert set(buckets(resolution)) == {(w, h) for h, w in buckets(resolution)}
        assert (resolution, resolution) in buckets(resolution)
    assert {(384, 640), (448, 576), (320, 768), (256, 1024)} <= set(buckets(512))


def test_enlarging_beyond_the_limit_is_a_reject_that_says_so() -> None:
    """A 100 x 80 px picture cannot become 512 px with --max-upscale 2; at 6.4 it can."""
    with pytest.raises(Rejected, match=r"too small: 100 x 80 px would be enlarged 6.40 x \(limit 2\)"):
        Geometry(512, "crop").place((80, 100))
    assert Geometry(512, "crop", 6.4).place((80, 100)).canvas == (512, 512)


@given(height=st.integers(1, 60), width=st.integers(1, 60), resolution=st.sampled_from([64, 128]))
@settings(max_examples=share(100), deadline=None)
def test_resize_and_pad_give_what_was_placed(height: int, width: int, resolution: int) -> None:
    """Pixels have the placed sizes; a constant picture stays constant, and the border of pad is black."""
    rgb = np.full((height, width, 3), 93, np.uint8)
    for fit in ("crop", "bucket", "pad", "keep"):
        placement = Geometry(resolution, fit, **free).place((height, width))  # type: ignore[arg-type]
        content = resize(rgb, placement)
        assert content.shape == (*placement.content, 3)
        assert (content == 93).all()
        stored = pad(content, placement)
        assert stored.shape == (*placement.canvas, 3)
        assert (stored == 93).sum() == content.size


def test_a_dot_lands_where_the_transform_says() -> None:
    """A bright square in a large picture is found at its transformed centre, to a tenth of a pixel, for every fit."""
    rgb = np.zeros((1210, 1633, 3), np.uint8)
    rgb[500:540, 900:960] = 255
    for fit in ("crop", "bucket", "pad", "keep"):
        placement = Geometry(512, fit).place((1210, 1633))  # type: ignore[arg-type]
        stored = pad(resize(rgb, placement), placement)[..., 0].astype(float)
        ys, xs = np.mgrid[: stored.shape[0], : stored.shape[1]] + 0.5
        sx, _, tx, _, sy, ty = placement.transform
        assert (stored * xs).sum() / stored.sum() == pytest.approx(sx * 930 + tx, abs=0.1)
        assert (stored * ys).sum() / stored.sum() == pytest.approx(sy * 520 + ty, abs=0.1)


def test_shrinking_is_antialiased() -> None:
    """A checkerboard of single pixels becomes grey, not a moiré pattern."""
    board = (np.indices((2048, 2048)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    small = resize(board, Geometry(512).place((2048, 2048)))
    assert small.std() < 2
    assert abs(small.mean() - 127.5) < 2


@given(height=st.integers(64, 20_000), width=st.integers(64, 20_000), resolution=st.sampled_from([64, 512, 1024]))
def test_a_reduction_leaves_twice_what_is_needed(height: int, width: int, resolution: int) -> None:
    """Whatever the shape and fit, a reduced picture's box has at least twice the content's pixels on each side; and the
    next reduction would not have, but for the smallest that there is. `exact` and `keep` reduce nothing."""
    for fit in ("crop", "bucket", "pad", "keep"):
        geometry = Geometry(resolution, fit, **free)  # type: ignore[arg-type]
        side, placement = geometry.reduction((height, width)), geometry.place((height, width))
        left = [box / side / content for box, content in zip(placement.box[2:], placement.content)]
        assert side in (1, 2, 4, 8)
        assert side == 1 or min(left) >= 2
        assert side == 8 or min(left) / 2 < 2
        assert fit != "keep" or side == 1
        assert Geometry(resolution, fit, **free, decode="exact").reduction((height, width)) == 1  # type: ignore[arg-type]
