"""The matrices that stand for the reference's resizing and smoothing, and the network's input."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from support.openpose_reference import part_of_the_reference
from support.thorough import share

from condprep.annotators.openpose.inputs import SIGMA, blur_on_device, network_input, resize_on_device
from condprep.annotators.openpose.operators import WIDEST, Frame, operators

sides = st.integers(1, 700)
network_heights = st.sampled_from([184, 368])


@pytest.fixture(scope="module")
def reference():
    """controlnet_aux's resizing functions."""
    return part_of_the_reference("util")


@settings(max_examples=share(100), deadline=None)
@given(sides, sides, network_heights)
@example(184, 184, 184)
@example(183, 600, 184)
@example(185, 100, 184)
@example(300, 1, 184)
def test_the_matrices_are_the_reference_s_chain(reference, height, width, network_height):
    """Maps of any picture, enlarged and smoothed by matrices, equal the reference's within 1e-5."""
    frame = Frame.of(height, width, network_height)
    cells = np.random.default_rng(height * 1000 + width).random((*frame.cells, 2), np.float32)
    enlarged = reference.smart_resize_k(cells, fx=8, fy=8)[: frame.inner[0], : frame.inner[1]]
    raw = reference.smart_resize(enlarged, (height, width))
    smooth = gaussian_filter(raw.astype(float), sigma=(3, 3, 0))
    matrices = operators(frame, "cpu")
    for (rows, columns), expected in ((matrices.raw, raw), (matrices.smooth, smooth)):
        ours = torch.einsum("yh,hwc,xw->yxc", rows, torch.from_numpy(cells).double(), columns)
        assert np.allclose(ours.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@settings(max_examples=share(100), deadline=None)
@given(sides, sides, network_heights)
@example(184, 300, 184)
@example(368, 300, 184)
def test_the_network_s_input_is_the_reference_s(reference, height, width, network_height):
    """On the CPU the network sees the very numbers that the reference's sees (pictures at most 8 times as wide as high)."""
    height = max(height, -(-width // WIDEST))
    width = max(width, 2 * height // network_height + 1)  # the reference cannot pad a width of less than 2
    rgb = random_picture(height, width)
    scale = network_height / height
    small, _ = reference.padRightDownCorner(reference.smart_resize_k(rgb[:, :, ::-1], fx=scale, fy=scale), 8, 128)
    expected = np.float32(small.transpose(2, 0, 1)) / 256 - 0.5
    ours = network_input(as_batch(rgb), Frame.of(height, width, network_height))
    assert np.array_equal(ours[0].numpy(), expected)


@settings(max_examples=share(50), deadline=None)
@given(sides, sides)
@example(1500, 40)
def test_a_gpu_s_input_is_that_of_the_cpu(height, width):
    """The matrices that shrink pictures on a GPU give OpenCV's picture, within one grey level anywhere."""
    rgb, frame = as_batch(random_picture(height, width)), Frame.of(height, width, 184)
    method = cv2.INTER_AREA if sum(frame.inner) < height + width else cv2.INTER_LANCZOS4
    expected = cv2.resize(rgb[0].permute(1, 2, 0).numpy(), frame.inner[::-1], interpolation=method)
    ours = resize_on_device(rgb, frame.inner)[0].permute(1, 2, 0).numpy()
    assert abs(ours - expected).max() <= 1
    assert (ours != expected).mean() <= 0.25


@settings(max_examples=25, deadline=None)
@given(st.integers(10, 900), st.integers(10, 900), st.sampled_from([184, 368, 384, 552, 736]))
def test_a_gpu_s_squares_are_those_of_the_cpu(reference, height, width, side):
    """Hands and faces of any shape, enlarged or shrunk by the matrices, are OpenCV's, within one grey level anywhere."""
    picture = random_picture(height, width)
    expected = reference.smart_resize(picture, (side, side))
    ours = resize_on_device(as_batch(picture), (side, side))[0].permute(1, 2, 0).numpy()
    assert abs(ours - expected).max() <= 1


@settings(max_examples=share(50), deadline=None)
@given(st.integers(20, 300))
def test_a_gpu_s_blur_is_that_of_the_cpu(side):
    """The matrix that blurs hands on a GPU gives OpenCV's very bytes."""
    picture = random_picture(side, side)
    expected = cv2.GaussianBlur(picture, (0, 0), SIGMA)
    ours = blur_on_device(as_batch(picture)[0]).permute(1, 2, 0).numpy()
    assert np.array_equal(ours, expected)


@settings(max_examples=share(200))
@given(st.integers(1, 20_000), st.integers(1, 20_000), network_heights)
def test_the_network_s_input_is_small_whatever_the_picture(height, width, network_height):
    """No picture, however long or wide, makes an input higher than asked for or wider than 8 times that."""
    frame = Frame.of(height, width, network_height)
    assert 1 <= frame.inner[0] <= network_height
    assert 1 <= frame.inner[1] <= WIDEST * network_height
    assert all(8 * cells - 8 < inner <= 8 * cells for cells, inner in zip(frame.cells, frame.inner))


def random_picture(height: int, width: int) -> np.ndarray:
    """Noise over a gradient, (H, W, 3) uint8."""
    ramp = np.linspace(0, 155, height)[:, None, None] + np.zeros((height, width, 3))
    return (ramp + np.random.default_rng(height + width).integers(0, 101, ramp.shape)).astype(np.uint8)


def as_batch(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb)[None].permute(0, 3, 1, 2)
