"""Any Pillow picture -> 8-bit sRGB: ICC profiles, palettes, grey, CMYK, 16 bit; alpha is composited on white."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from condprep.errors import Rejected

MAX_PROFILE = 4 << 20  # bytes; no real profile is larger, and the cached ones stay in memory
_WITHOUT_ALPHA = {"RGBA": "RGB", "LA": "L"}
_STRAIGHT_ALPHA = {"RGBa": "RGBA", "La": "LA", "PA": "RGBA"}


def rgb_image(image: Image.Image) -> Image.Image:
    """A loaded picture of any mode as "RGB". Raises Rejected("decode", reason) for values without a defined range."""
    image = _eight_bit(image)
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    icc = image.info.get("icc_profile")
    image = image.convert(_STRAIGHT_ALPHA.get(image.mode, image.mode))
    if image.mode not in _WITHOUT_ALPHA:
        return to_srgb(image, icc)
    white = Image.new("RGB", image.size, "white")
    white.paste(to_srgb(image.convert(_WITHOUT_ALPHA[image.mode]), icc), mask=image.getchannel("A"))
    return white


def to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """A picture without alpha through its ICC profile; a damaged profile, or one of another mode, is ignored."""
    transform = _transform(icc, image.mode) if icc and not is_srgb(icc) else None
    return ImageCms.applyTransform(image, transform) if transform else image.convert("RGB")  # type: ignore[return-value]


@lru_cache(maxsize=16)
def is_srgb(icc: bytes) -> bool:
    """Whether a profile, whatever its name, changes no colour by more than one level of 255."""
    transform = _transform(icc, "RGB")
    if transform is None:
        return False
    levels = np.linspace(0, 255, 18).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    changed = ImageCms.applyTransform(Image.fromarray(colours), transform)
    return bool(np.abs(np.asarray(changed).astype(int) - colours).max() <= 1)


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Relative colorimetric with black point compensation: what photo editors do by default."""
    if len(icc) > MAX_PROFILE:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey by its high byte, as Pillow itself reads 16-bit colour; Pillow's own conversion would clip at 255."""
    if image.mode.startswith("I;16"):
        narrow = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        narrow.info = {key: value for key, value in image.info.items() if key != "transparency"}
        return narrow
    if image.mode == "I" and image.format == "PPM":  # which is read as 0..65535, whatever its maximum
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F", "LAB"):
        reason = f"{image.mode} pixels have no defined range in sRGB; convert the picture to 8 or 16 bits"
        raise Rejected("decode", reason, code="no-value-range")
    return image
