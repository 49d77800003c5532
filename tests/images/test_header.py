"""A picture's header is read without its pixels."""

from __future__ import annotations

import zlib

import pytest
from PIL import ImageFile
from support.pictures import encoded, png, smooth, with_orientation

from condprep.images.decode import decode, header

XMP = b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6'/>".replace(b"'", b'"')


def moved_back(data: bytes, kind: bytes) -> bytes:
    """The PNG with that chunk behind its pixels."""
    start = data.index(kind) - 4
    end = start + 12 + int.from_bytes(data[start : start + 4])
    return data[:start] + data[end:-12] + data[start:end] + data[-12:]


def with_text(data: bytes) -> bytes:
    chunk = b"iTXt" + XMP
    return data[:-12] + len(XMP).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) + data[-12:]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_no_pixel_is_decoded(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any format: a hollow PNG of gigapixels would take gigabytes for what its first line says."""

    def load(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert header(encoded(smooth(20, 33), format)).size == (20, 33)
    assert header(png(60_000, 60_000)).size == (60_000, 60_000)


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_a_png_is_turned_as_it_says_wherever_it_does(orientation: int) -> None:
    """EXIF in front of the pixels, EXIF and XMP behind them: the header says what decoding does."""
    front = with_orientation(smooth(20, 33), "PNG", orientation)
    for data in (front, moved_back(front, b"eXIf")):
        assert header(data).orientation == orientation
        assert decode(data).size == ((33, 20) if orientation > 4 else (20, 33))
    plain = encoded(smooth(20, 33), "PNG")
    assert header(plain).orientation == 1
    assert header(with_text(plain)).orientation == 6
    assert decode(with_text(plain)).size == (33, 20)


def test_what_is_damaged_behind_the_pixels_is_no_orientation() -> None:
    """As where it stands in front of them."""
    data = moved_back(with_orientation(smooth(20, 33), "PNG", 6), b"eXIf").replace(b"MM\0*", b"XX\0*")
    assert header(data).orientation == 1
