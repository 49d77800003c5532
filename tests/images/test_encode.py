"""The bytes that are stored."""

from __future__ import annotations

import io

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from condprep.images.encode import encode_map


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_a_binary_map_comes_back_as_it_was(height: int, width: int, seed: int) -> None:
    """A map of 0 and 255 is a PNG of one bit a pixel that Pillow and OpenCV read back to the very same pixels."""
    pixels = np.random.default_rng(seed).integers(0, 2, (height, width), np.uint8) * np.uint8(255)
    encoded = encode_map(pixels, binary=True)
    image = Image.open(io.BytesIO(encoded))
    image.load()  # checks the sums
    assert image.mode == "1"
    assert np.array_equal(np.asarray(image.convert("L")), pixels)
    assert np.array_equal(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE), pixels)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_a_map_comes_back_as_it_was(height: int, width: int, channels: int, seed: int) -> None:
    """A grey or RGB map is a PNG that Pillow reads back to the very same pixels."""
    pixels = (
        np.random.default_rng(seed)
        .integers(0, 256, (height, width, channels), np.uint8)
        .squeeze(2 if channels == 1 else ())
    )
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_map(pixels, binary=False)))), pixels)
