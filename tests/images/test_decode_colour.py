"""Decoding: every mode, depth, transparency and profile becomes 8-bit sRGB on white."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.pictures import (
    ADOBE_RGB,
    SRGB,
    SRGB_TO_XYZ,
    cmyk_profile,
    encoded,
    grey_profile,
    pillow,
    png16,
    rgb_profile,
    smooth,
)

from condprep.errors import Rejected
from condprep.images.decode import decode

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


@pytest.mark.parametrize(
    "profile", [b"junk" * 40, SRGB[:200], grey_profile(2.2), b"\0" * (5 << 20)], ids=["junk", "cut", "grey", "zeros"]
)
def test_a_profile_that_does_not_fit_is_ignored(profile: bytes) -> None:
    """Junk, a cut, a grey profile on colour, a giant: the pixels stay as stored, but the bytes are not kept."""
    for format in ("JPEG", "PNG"):
        if format == "PNG" and len(profile) > 1 << 20:
            continue  # Pillow's reader refuses the file itself
        data = encoded(smooth(), format, icc_profile=profile)
        assert np.array_equal(decode(data).rgb, pillow(data))
        assert not decode(data).pristine
