"""Decoding: every kind of good picture becomes the same upright 8-bit sRGB pixels, by whichever path."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import (
    ADOBE_RGB,
    SRGB_TO_XYZ,
    cmyk_profile,
    encoded,
    grey_profile,
    jpeg_with_segment,
    png,
    png16,
    rgb_profile,
    smooth,
    with_orientation,
)
from PIL import Image, ImageCms, ImageFile, ImageOps

from condprep import decode as module
from condprep.decode import Picture, decode, rgb_pixels
from condprep.errors import Rejected
from condprep.exif import exif_orientation

SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
SRGB = SRGB_PROFILE.tobytes()
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def pillow(data: bytes) -> np.ndarray:
    """What any reader sees: `Image.open(...).convert("RGB")`, upright."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


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


@settings(max_examples=60, deadline=None)
@given(sizes(), st.sampled_from(sorted(SUBSAMPLINGS)), st.integers(30, 98), st.booleans(), st.booleans())
def test_the_fast_jpeg_path_changes_speed_not_pixels(size, subsampling, quality, progressive, restart) -> None:
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


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_damaged_exif_is_ignored(junk: bytes, headed: bool) -> None:
    """Whatever stands in the EXIF block, the picture decodes; only a readable block leaves its bytes pristine."""
    block = b"Exif\0\0" + b"II*\0\x08\0\0\0" * headed + junk
    picture = decode(jpeg_with_segment(encoded(smooth(8, 8)), 0xE1, block))
    assert picture.size == (8, 8)
    if len(block) > 6 and exif_orientation(block[6:]) is None:
        assert not picture.pristine


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # from the reader that we compare with
@settings(max_examples=100, deadline=None)
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


# alpha, palettes, grey, depth


@pytest.mark.parametrize("format", ["PNG", "WebP", "TIFF", "AVIF"])
def test_alpha_is_composited_on_white(format: str) -> None:
    """Colour times alpha plus white times the rest, within rounding; where alpha is 0 exactly white."""
    rgb, alpha = smooth(), np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    data = encoded(np.dstack([rgb, alpha]), format, **({"lossless": True} if format == "WebP" else {"quality": 100}))
    source = np.asarray(Image.open(io.BytesIO(data)))
    weight = source[..., 3:] / 255
    expected = source[..., :3] * weight + 255 * (1 - weight)
    picture = decode(data)
    assert np.abs(picture.rgb - expected).max() <= 1
    assert (picture.rgb[source[..., 3] == 0] == 255).all()
    assert not picture.pristine


def test_grey_with_alpha_and_colour_keys_are_composited_too() -> None:
    """LA, and the single transparent colour of a grey, RGB or palette picture, become white where transparent."""
    grey = smooth()[..., 0]
    half = np.where(np.arange(64) < 32, 0, 255).astype(np.uint8) * np.ones((48, 1), np.uint8)
    assert (decode(encoded(Image.fromarray(np.dstack([grey, half]), "LA"), "PNG")).rgb[:, :32] == 255).all()
    for mode, key in (("L", 7), ("RGB", (7, 7, 7)), ("P", 7)):
        image = Image.fromarray(np.where(half, 7, 100).astype(np.uint8)).convert("RGB").convert(mode)
        if mode == "P":
            image = Image.fromarray(np.where(half, 7, 100).astype(np.uint8), "L")
            image.putpalette([3, 4, 5] * 256)
        rgb = decode(encoded(image, "PNG", transparency=key)).rgb
        assert (rgb[:, 32:] == 255).all(), mode
        assert (rgb[:, :32] < 255).all(), mode


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_few_colours_become_rgb(format: str, mode: str) -> None:
    """1-bit, grey and palette pictures give the colours that they stand for."""
    image = Image.fromarray(smooth()).convert(mode)
    assert np.array_equal(decode(encoded(image, format)).rgb, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format: str) -> None:
    """The 65,536 levels of a 16-bit ramp become the 256 of 8 bit, evenly and in order."""
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    data = png16(ramp) if format == "PNG" else encoded(Image.fromarray(ramp), "TIFF")
    rgb = decode(data).rgb
    assert np.array_equal(rgb[..., 0], ramp >> 8)
    assert np.array_equal(rgb[..., 1], rgb[..., 0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sixteen_bit_colour_and_grey_agree(seed: int) -> None:
    """A grey value stored as 16-bit grey or as 16-bit RGB comes out as the same colour."""
    grey = np.random.default_rng(seed).integers(0, 65536, (5, 7), np.uint16)
    colour = np.repeat(grey[..., None], 3, 2)
    assert np.array_equal(decode(png16(grey)).rgb, decode(png16(colour)).rgb)


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_values_without_a_range_are_rejected(mode: str) -> None:
    """32-bit and Lab TIFF have no agreed white: guessing one would make wrong pictures."""
    image = Image.fromarray(smooth()[..., 0]).convert(mode) if mode != "LAB" else Image.new("LAB", (4, 4))
    with pytest.raises(Rejected, match=f"{mode} pixels have no defined range"):
        decode(encoded(image, "TIFF"))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WebP", "TIFF", "AVIF"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    """Of several frames the first is taken, and the bytes, which hold them all, are not kept."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    picture = decode(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
    assert np.abs(picture.rgb.astype(int) - (255, 0, 0)).max() <= 4
    assert not picture.pristine


# ICC profiles


def adobe_to_srgb(rgb: np.ndarray) -> np.ndarray:
    """The definition: Adobe's curve, its primaries to XYZ, back through sRGB's primaries and curve."""
    linear = (rgb / 255) ** (563 / 256) @ (np.linalg.inv(SRGB_TO_XYZ) @ ADOBE_RGB).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP", "TIFF", "AVIF"])
def test_a_wide_gamut_picture_becomes_srgb(format: str) -> None:
    """Adobe RGB is converted as its definition says, within 2 levels, in every format that carries profiles."""
    profile = rgb_profile(563 / 256, ADOBE_RGB)
    data = encoded(smooth(), format, icc_profile=profile)
    expected = adobe_to_srgb(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    picture = decode(data)
    assert np.abs(picture.rgb - expected).max() <= 2
    assert not picture.pristine


def test_a_grey_profile_is_applied_to_grey() -> None:
    """Gamma 1.8 grey is darkened to sRGB's curve, equally in JPEG (fast path) and PNG (Pillow)."""
    grey = np.tile(np.arange(0, 256, 4, np.uint8), (16, 1))
    rgb = [
        decode(encoded(grey, kind, icc_profile=grey_profile(1.8), **options)).rgb
        for kind, options in (("PNG", {}), ("JPEG", {"quality": 100}))
    ]
    linear = (grey / 255) ** 1.8
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(rgb[0][..., 0] - expected).max() < 1.5
    assert np.abs(rgb[0].astype(int) - rgb[1]).max() <= 2


def test_a_cmyk_profile_decides_what_the_inks_look_like() -> None:
    """Full cyan is the press's cyan and bare paper is white, not the screen's (0, 255, 255)."""
    profile = cmyk_profile({(0, 0, 0, 0): (100, 0, 0), (1, 0, 0, 0): (55, -37, -50)})
    image = Image.new("CMYK", (32, 16), (255, 0, 0, 0))
    image.paste((0, 0, 0, 0), (16, 0, 32, 16))
    rgb = decode(encoded(image, icc_profile=profile, quality=100, subsampling=0)).rgb
    assert np.abs(rgb[8, 4].astype(int) - (0, 151, 218)).max() <= 3
    assert np.abs(rgb[8, 28].astype(int) - 255).max() <= 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP"])
def test_an_srgb_profile_changes_nothing(format: str) -> None:
    """A profile that is sRGB, whatever its name, leaves pixels and bytes as they are."""
    data = encoded(smooth(), format, icc_profile=SRGB)
    assert decode(data).pristine
    assert np.array_equal(decode(data).rgb, pillow(data))


@pytest.mark.parametrize("profile", [b"junk" * 40, SRGB[:200], grey_profile(2.2), b"\0" * (5 << 20)])
def test_a_profile_that_does_not_fit_is_ignored(profile: bytes) -> None:
    """Junk, a cut, a grey profile on colour, a giant: the pixels stay as stored, but the bytes are not kept."""
    for format in ("JPEG", "PNG"):
        if format == "PNG" and len(profile) > 1 << 20:
            continue  # Pillow's reader refuses the file itself
        data = encoded(smooth(), format, icc_profile=profile)
        assert np.array_equal(decode(data).rgb, pillow(data))
        assert not decode(data).pristine


# what may keep its bytes, and what the caller gets


MODES = st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
FORMATS = st.sampled_from(["JPEG", "PNG", "WebP", "AVIF", "GIF", "BMP", "TIFF"])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(FORMATS, MODES, sizes(), st.sampled_from([None, SRGB, rgb_profile(1.8, ADOBE_RGB)]), st.integers(1, 8))
def test_pristine_bytes_show_exactly_our_pixels(format, mode, size, profile, orientation) -> None:
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


@settings(max_examples=60, deadline=None)
@given(sizes(8, 300), st.tuples(st.integers(1, 400), st.integers(1, 400)), st.integers(1, 8))
def test_a_reduced_jpeg_is_large_enough_and_knows_its_full_size(size, least, orientation) -> None:
    """Never below what is needed (or the full size, if that is less), and the shape as seen keeps its meaning."""
    picture = decode(with_orientation(smooth(*size), "JPEG", orientation), min_size=lambda _: least)
    assert picture.size == (size[::-1] if orientation > 4 else size)
    for got, need, full in zip(picture.rgb.shape, least, picture.size):
        assert min(need, full) <= got <= full
    if picture.rgb.shape[:2] != picture.size:
        assert not picture.pristine


def test_a_reduced_jpeg_shows_the_same_picture() -> None:
    """At a quarter of the size it is the full picture's average, within a few levels; half would be no saving."""
    data = encoded(smooth(256, 384), quality=95)
    asked = []
    reduced = decode(data, min_size=lambda size: asked.append(size) or (64, 96)).rgb
    average = decode(data).rgb.reshape(64, 4, 96, 4, 3).mean((1, 3))
    assert asked == [(256, 384)]
    assert reduced.shape == (64, 96, 3)
    assert np.abs(reduced - average).max() <= 4


def test_only_jpeg_is_reduced() -> None:
    """A PNG has no cheaper resolution: it is decoded in full whatever would suffice."""
    assert decode(encoded(smooth(), "PNG"), min_size=lambda _: (1, 1)).rgb.shape == (48, 64, 3)


# the host program's settings


def test_pillows_own_pixel_limit_neither_fires_nor_changes(monkeypatch, recwarn) -> None:
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


def test_huge_pictures_are_decoded_one_at_a_time(monkeypatch) -> None:
    """Threads that decode pictures above the threshold never do so at the same moment."""
    from concurrent.futures import ThreadPoolExecutor
    from time import sleep

    busy, most = [], []
    load = ImageFile.ImageFile.load

    def slow_load(image: ImageFile.ImageFile) -> object:
        busy.append(1)
        sleep(0.01)
        most.append(len(busy))
        busy.pop()
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", slow_load)
    bmp = encoded(smooth(), "BMP")
    with ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr(module, "HUGE", 100)
        assert all(isinstance(one, Picture) for one in pool.map(decode, [bmp] * 8))
        alone = max(most)
        monkeypatch.setattr(module, "HUGE", 1 << 30)
        list(pool.map(decode, [bmp] * 8))
    assert alone == 1
    assert max(most) > 1


def test_a_header_alone_is_enough_to_refuse_a_bomb() -> None:
    """30,000 x 30,000 pixels in a PNG of no pixels: refused by size before anything notices that they are missing."""
    with pytest.raises(Rejected, match=r"^30000 x 30000 px = 900 Mpx > limit 200 Mpx$"):
        decode(png(30_000, 30_000))
