"""Squares of pictures, as networks see them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from condprep.annotators.openpose.squares import Squares, crop


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
    seen = crop(rgb, square(19.5, 24.5, 20, 90 * quarters), 20)
    expected = rgb[:, :, 15:35, 10:30].float().rot90(quarters, (2, 3))
    torch.testing.assert_close(seen, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_shrunk_crop_is_the_mean_of_its_pixels(factor: int) -> None:
    """Shrunk by a power of two, each point is the mean of all pixels that it stands for: none is skipped."""
    rgb = picture(64, 64)
    seen = crop(rgb, square(31.5, 31.5, 64), 64 // factor)
    expected = torch.nn.functional.avg_pool2d(rgb.float(), factor)
    torch.testing.assert_close(seen, expected, atol=0.01, rtol=0)


def test_an_enlarged_crop_is_opencvs() -> None:
    """Enlarged, turned and partly outside, a crop is cv2.warpAffine's bilinear one on black."""
    rgb, one = picture(), square(50, 10, 30, 33)
    corners = one.place(np.array([[[0.5 / 96, 0.5 / 96], [95.5 / 96, 0.5 / 96], [0.5 / 96, 95.5 / 96]]]))[0]
    matrix = cv2.getAffineTransform(corners.astype(np.float32), np.float32([[0, 0], [95, 0], [0, 95]]))
    pixels = rgb[0].permute(1, 2, 0).numpy()
    expected = cv2.warpAffine(pixels.astype(np.float32), matrix, (96, 96), borderValue=0)
    seen = crop(rgb, one, 96)[0].permute(1, 2, 0).numpy()
    assert np.abs(seen - expected).mean() < 1  # OpenCV rounds positions to 1 / 32 pixel, and this is noise
    assert np.abs(seen - expected).max() < 20


def test_outside_of_the_picture_is_black() -> None:
    """A point outside of the picture is 0, inside it is the picture."""
    rgb = torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)
    seen = crop(rgb, square(7.5, 7.5, 32), 32)
    expected = torch.zeros(1, 3, 32, 32)
    expected[:, :, 8:24, 8:24] = 200
    torch.testing.assert_close(seen, expected)
