"""The bytes that are stored."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from condprep.encode import encode_map
from condprep.shards import IMAGE, record_batch


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


@given(
    st.lists(
        st.tuples(st.binary(max_size=50), st.text(max_size=10), st.one_of(st.none(), st.integers(0, 9))), min_size=1
    )
)
def test_rows_are_stored_as_pyarrow_stores_them(values: list[tuple[bytes, str, int | None]]) -> None:
    """A record batch holds the same values as the one that pyarrow makes of the rows."""
    schema = pa.schema({"image": IMAGE, "text": pa.string(), "number": pa.int64()})
    rows = [{"image": {"bytes": data, "path": None}, "text": text, "number": number} for data, text, number in values]
    ours = record_batch(rows, schema)
    ours.validate(full=True)
    assert ours.equals(pa.RecordBatch.from_pylist(rows, schema))
