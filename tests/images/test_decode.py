"""Decoding: a good picture becomes the same upright pixels by whichever path, its bytes kept only where any reader agrees."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile
from support.pictures import (
    ADOBE_RGB,
    SRGB,
    SRGB_PROFILE,
    encoded,
    jpeg_with_segment,
    pillow,
    png,
    png16,
    rgb_profile,
    smooth,
    with_orientation,
)
from support.thorough import share

from condprep.errors import Rejected
from condprep.images import decode as module
from condprep.images.decode import Picture, decode, rgb_pixels
from condprep.images.exif import exif_orientation

SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def sizes(smallest: int = 1, largest: int = 70) -> st.SearchStrategy[tuple[int, int]]:
    side = st.integers(smallest, largest)
    return st.tuples(side, side)


# JPEG: two decoders, one result


@pytest.mark.parametrize("folder", ["people", "edges", "depth"])
def test_photographs_decode_as_pillow_decodes_them(shared: Path, folder: str) -> None:
    """On real photographs every pixel is Pillow's, after LittleCMS where a profile is embedded that is not sRGB."""
    files = sorted((shared / "data" / folder).glob("*.jpg"))
    assert files
    for file in files:
        picture, plain = decode(file.read_bytes()), Image.open(file)
        profile = plain.info.get("icc_profile")
        srgb = converted(plain, profile) if profile else plain
        assert np.array_equal(picture.rgb, np.asarray(plain if picture.pristine else srgb))
        assert picture.pristine == (np.abs(np.subtract(plain, srgb, dtype=int)).max() <= 1)


def converted(image: Image.Image, profile: bytes) -> Image.Image:
    """Relative colorimetric with black point compensation, by Pillow's one-call function."""
    relative, black = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.profileToProfile(image, io.BytesIO(profile), SRGB_PROFILE, relative, None, False, black)


@settings(max_examples=share(60), deadline=None)
@given(sizes(), st.sampled_from(sorted(SUBSAMPLINGS)), st.integers(30, 98), st.booleans(), st.booleans())
def test_the_fast_jpeg_path_changes_speed_not_pixels(
    size: tuple[int, int], subsampling: str, quality: int, progressive: bool, restart: bool
) -> None:
    """At any size, subsampling, quality and scan order simplejpeg and Pillow give the same bytes."""
    options = {"subsampling": SUBSAMPLINGS[subsampling], "quality": quality, "progressive": progressive}
    data = encoded(smooth(*size), **options, restart_marker_blocks=3 * restart)
    assert np.array_equal(decode(data).rgb, pillow(data))


@pytest.mark.parametrize("mode", ["L", "CMYK", "keep_rgb"])
def test_other_colour_spaces_of_jpeg_decode_as_in_pillow(mode: str) -> None:
    """Grey, CMYK (Adobe's, inverted) and JPEG stored as RGB give Pillow's pixels too."""
    image = Image.fromarray(smooth())
    data = encoded(image, keep_rgb=True, quality=95) if mode == "keep_rgb" else encoded(image.convert(mode))
    assert np.array_equal(decode(data).rgb, pillow(data))


def test_a_ycck_jpeg_is_not_negative() -> None:
    """Adobe's four-component JPEG decodes to colours near those that went in, not to their complements."""
    rgb = smooth()
    data = encoded(Image.fromarray(rgb).convert("CMYK"), quality=95, subsampling=0)
    assert np.abs(decode(data).rgb.astype(int) - rgb).mean() < 4


# orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    """All eight orientations, in every format that has them, come out upright with the size as seen."""
    data = with_orientation(smooth(20, 33), format, orientation)
    picture = decode(data)
    assert np.array_equal(picture.rgb, pillow(data))
    assert picture.size == picture.rgb.shape[:2] == ((33, 20) if orientation > 4 else (20, 33))
    assert picture.pristine == (orientation == 1 and format in ("JPEG", "PNG", "WebP"))


def test_orientation_in_xmp_counts_where_exif_has_none() -> None:
    """A JPEG turned by its XMP block alone is turned, as every Pillow reader turns it."""
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    data = jpeg_with_segment(encoded(smooth(20, 33)), 0xE1, xmp)
    assert decode(data).rgb.shape == (33, 20, 3)
    assert np.array_equal(decode(data).rgb, pillow(data))


@settings(max_examples=share(150), deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_damaged_exif_is_ignored(junk: bytes, headed: bool) -> None:
    """Whatever stands in the EXIF block, the picture decodes; only a readable block leaves its bytes pristine."""
    block = b"Exif\0\0" + b"II*\0\x08\0\0\0" * headed + junk
    picture = decode(jpeg_with_segment(encoded(smooth(8, 8)), 0xE1, block))
    assert picture.size == (8, 8)
    if len(block) > 6 and exif_orientation(block[6:]) is None:
        assert not picture.pristine


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # from the reader that we compare with
@settings(max_examples=share(100), deadline=None)
@given(st.data())
def test_a_pristine_jpeg_is_one_that_every_reader_shows_upright(data: st.DataObject) -> None:
    """With any byte of the EXIF block changed, a picture that is still called pristine is still shown as we saw it."""
    original = with_orientation(smooth(8, 16), "JPEG", data.draw(st.integers(1, 8)))
    start = original.index(b"Exif") + 6
    at = data.draw(st.integers(start, start + 25))
    changed = original[:at] + bytes([data.draw(st.integers(0, 255))]) + original[at + 1 :]
    picture = decode(changed)
    if picture.pristine:
        assert np.array_equal(picture.rgb, pillow(changed))


# what may keep its bytes, and what the caller gets


MODES = st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
FORMATS = st.sampled_from(["JPEG", "PNG", "WebP", "AVIF", "GIF", "BMP", "TIFF"])


@settings(
    max_examples=share(120), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(FORMATS, MODES, sizes(), st.sampled_from([None, SRGB, rgb_profile(1.8, ADOBE_RGB)]), st.integers(1, 8))
def test_pristine_bytes_show_exactly_our_pixels(
    format: str, mode: str, size: tuple[int, int], profile: bytes | None, orientation: int
) -> None:
    """Of any format, mode, profile and orientation: (H, W, 3) uint8, writable; pristine only if a plain reader agrees."""
    image = Image.new("I;16", size[::-1]) if mode == "I;16" else Image.fromarray(smooth(*size)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    try:
        data = encoded(image, format, icc_profile=profile, exif=exif)
    except (OSError, ValueError):  # the format has no such mode
        return
    picture = decode(data)
    assert picture.rgb.dtype == np.uint8
    assert picture.rgb.shape == (*picture.size, 3)
    assert picture.rgb.flags.c_contiguous
    assert picture.rgb.flags.writeable
    if picture.pristine:
        reader = Image.open(io.BytesIO(data))
        assert np.array_equal(picture.rgb, np.asarray(reader.convert("RGB")))
        assert (reader.format, reader.mode, orientation) in {(kind, "RGB", 1) for kind in ("JPEG", "PNG", "WEBP")}


def test_what_is_not_plain_is_not_pristine() -> None:
    """16-bit colour, and a JPEG that holds a second picture, are decoded but re-encoded."""
    assert not decode(png16(np.zeros((4, 4, 3), np.uint16))).pristine
    several = encoded(smooth(), "MPO", save_all=True, append_images=[Image.fromarray(smooth(seed=1))])
    assert not decode(several).pristine
    assert np.array_equal(decode(several).rgb, pillow(several))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16", "CMYK"])
def test_a_pil_image_has_the_pixels_of_its_file(mode: str) -> None:
    """`rgb_pixels` of an opened file equals `decode` of its bytes."""
    image = Image.new(mode, (9, 5), 1000) if mode == "I;16" else Image.fromarray(smooth(5, 9)).convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    assert np.array_equal(rgb_pixels(Image.open(io.BytesIO(data))), decode(data).rgb)


@pytest.mark.parametrize("size", [(1, 1), (10, 10_000), (10_000, 10)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP"])
def test_extreme_shapes_decode(size: tuple[int, int], format: str) -> None:
    """One pixel, and strips of 10,000 x 10, are pictures like any other."""
    assert decode(encoded(np.full((*size, 3), 200, np.uint8), format)).size == size


# reduced decoding


@settings(max_examples=share(60), deadline=None)
@given(sizes(100, 300), st.sampled_from([1, 2, 4, 8]), st.integers(1, 8))
def test_a_reduced_jpeg_knows_where_its_pixels_lie(size: tuple[int, int], side: int, orientation: int) -> None:
    """Whole pixels of the full picture are averaged: the mean of those that a reduced pixel covers, by its grid, is its
    value within a level on average, in every orientation, wherever libjpeg's last pixels lie partly outside."""
    data, asked = with_orientation(smooth(*size), "JPEG", orientation), []
    full, picture = decode(data), decode(data, reduction=lambda size: asked.append(size) or side)
    assert asked == [full.size] == [picture.size]
    assert picture.rgb.shape[:2] == tuple(-(-length // side) for length in picture.size)
    assert picture.pristine == (full.pristine and side == 1)
    assert picture.grid.side == side
    first = tuple(round(offset * side) for offset in picture.grid.origin)
    inside = [
        (length + at) // side for length, at in zip(picture.size, first)
    ]  # reduced pixels up to the last whole one
    skipped = [int(at > 0) for at in first]
    whole = [slice(skip * side - at, count * side - at) for skip, at, count in zip(skipped, first, inside)]
    rows, columns = (count - skip for count, skip in zip(inside, skipped))
    average = full.rgb[whole[0], whole[1]].reshape(rows, side, columns, side, 3).mean((1, 3))
    reduced = picture.rgb[skipped[0] : inside[0], skipped[1] : inside[1]]
    assert np.abs(reduced - average).mean() <= 1


def test_only_jpeg_is_reduced() -> None:
    """A PNG has no cheaper resolution: it is decoded in full whatever would suffice."""
    assert decode(encoded(smooth(), "PNG"), reduction=lambda _: 8).rgb.shape == (48, 64, 3)


# the host program's settings


def test_pillows_own_pixel_limit_neither_fires_nor_changes(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """With Pillow's limit at 1,000 pixels, ours alone decides, in every format, and Pillow's is found as it was."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for format in ("JPEG", "PNG", "WebP", "AVIF", "GIF", "BMP"):
        assert decode(encoded(smooth(), format)).size == (48, 64), format
        with pytest.raises(Rejected, match="limit"):
            decode(encoded(smooth(), format), max_pixels=2000)
    monkeypatch.setattr(module, "HUGE", 2000)  # a large TIFF is checked once more while it loads
    assert decode(encoded(smooth(), "TIFF")).size == (48, 64)
    assert Image.MAX_IMAGE_PIXELS == 1000
    assert not recwarn.list


def test_huge_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that decode pictures above the threshold never do so at the same moment; smaller ones meet in the middle."""
    busy, most, meeting = [], [], threading.Barrier(4)
    load = ImageFile.ImageFile.load

    def slow_load(image: ImageFile.ImageFile) -> object:
        busy.append(1)
        time.sleep(0.01)
        most.append(len(busy))
        busy.pop()
        return load(image)

    def load_together(image: ImageFile.ImageFile) -> object:
        meeting.wait()
        return load(image)

    bmp = encoded(smooth(), "BMP")
    with ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr(module, "HUGE", 100)
        monkeypatch.setattr(ImageFile.ImageFile, "load", slow_load)
        assert all(isinstance(one, Picture) for one in pool.map(decode, [bmp] * 8))
        assert max(most) == 1
        monkeypatch.setattr(module, "HUGE", 1 << 30)
        monkeypatch.setattr(ImageFile.ImageFile, "load", load_together)
        assert all(isinstance(one, Picture) for one in pool.map(decode, [bmp] * 4))


def test_a_header_alone_is_enough_to_refuse_a_bomb() -> None:
    """30,000 x 30,000 pixels in a PNG of no pixels: refused by size before anything notices that they are missing."""
    with pytest.raises(Rejected, match=r"^30000 x 30000 px = 900 Mpx > limit 200 Mpx$"):
        decode(png(30_000, 30_000))
