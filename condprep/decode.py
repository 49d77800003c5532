"""Encoded bytes -> RGB, one canonical way, whatever they are.

EXIF orientation applied, transparency on white, grey, palette, CMYK, 16 bit and ICC profiles to 8-bit sRGB. Only formats
whose decoders run no programs are opened, by content and never by name, and the size is checked before any pixel is.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import simplejpeg
from PIL import AvifImagePlugin as _avif  # noqa: F401  (importing a plugin registers its format)
from PIL import BmpImagePlugin as _bmp  # noqa: F401
from PIL import GifImagePlugin as _gif  # noqa: F401
from PIL import Image, ImageCms
from PIL import JpegImagePlugin as _jpeg  # noqa: F401
from PIL import PngImagePlugin as _png  # noqa: F401
from PIL import TiffImagePlugin as _tiff  # noqa: F401
from PIL import WebPImagePlugin as _webp  # noqa: F401

from condprep.errors import Rejected

Size = tuple[int, int]  # (height, width), pixels

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
PRISTINE = {"JPEG", "PNG", "WEBP"}  # formats that every reader of a dataset decodes to the same pixels
ORIENTATION = 0x0112  # EXIF tag
HUGE = 32_000_000  # pixels; larger pictures are decoded one at a time
TURNS = {  # EXIF orientation -> how to undo it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_one_at_a_time = threading.Lock()
warnings.filterwarnings("ignore", module=r"PIL\.")  # broken metadata is ignored, not told for every picture


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture."""

    rgb: np.ndarray  # (H, W, 3) uint8, C-contiguous; smaller than `size` only when `min_size` allowed it
    size: Size  # of the full picture, after EXIF orientation
    pristine: bool  # the encoded bytes may be kept: a plain reader gets exactly these pixels from them


def decode(
    data: bytes,
    *,
    max_pixels: int = 200_000_000,
    allow_truncated: bool = False,
    min_size: Callable[[Size], Size] | None = None,
) -> Picture:
    """Decode a picture. Raises Rejected("decode", reason).

    max_pixels: checked from the header. allow_truncated: a cut file gives what can be read of it. min_size: from the full
    size to the smallest one that suffices; a JPEG may then be decoded at 1/2, 1/4 or 1/8, not smaller than that.
    """
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise Rejected(
            "decode",
            f"too many pixels: {width} x {height} px = {width * height / 1e6:.0f} Mpx > limit {max_pixels / 1e6:g} Mpx",
        )
    with _one_at_a_time if width * height > HUGE else nullcontext():
        try:
            return _decode(image, data, allow_truncated, min_size)
        except Rejected:
            raise
        except Exception as error:  # decoders raise whatever they like on damaged bytes
            raise Rejected("decode", _reason(image, error)) from None


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """A PIL picture of any mode -> (H, W, 3) uint8 RGB, as `decode` would give it. Raises Rejected."""
    turn = TURNS.get(_orientation(image))
    rgb = _to_rgb(image)
    return np.array(rgb.transpose(turn) if turn is not None else rgb)


def _open(data: bytes) -> Image.Image:
    """The header alone. Plugins are called directly: Image.open's own size limit is another than ours, and global."""
    if not data:
        raise Rejected("decode", "empty file")
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        try:
            if accept is None or accept(data[:16]) is not True:
                continue
            image = factory(io.BytesIO(data), "")
        except Exception as error:
            raise Rejected("decode", f"damaged {name} header: {_words(error)}") from None
        if min(image.size) < 1:
            raise Rejected("decode", f"damaged {name} header: {image.size[0]} x {image.size[1]} px")
        return image
    raise Rejected("decode", f"not a picture: starts with {data[:16]!r}")


def _decode(
    image: Image.Image, data: bytes, allow_truncated: bool, min_size: Callable[[Size], Size] | None
) -> Picture:
    pristine = _is_plain(image, data)
    fast = _plain_jpeg(image, data, allow_truncated, min_size)
    whole = fast is not None or _load(image, allow_truncated)
    orientation = _orientation(image)
    turn = TURNS.get(orientation)
    size = (image.width, image.height) if orientation >= 5 else (image.height, image.width)
    if fast is not None and turn is None and not _profile(image):
        return Picture(fast, size, pristine)
    pixels = image if fast is None else _with_info(Image.fromarray(fast), image)
    rgb = _to_rgb(pixels)
    return Picture(np.array(rgb if turn is None else rgb.transpose(turn)), size, pristine and whole and turn is None)


def _is_plain(image: Image.Image, data: bytes) -> bool:
    """Whether nothing but the orientation could keep the bytes from being stored as they are."""
    return (
        image.format in PRISTINE
        and image.mode == "RGB"
        and "transparency" not in image.info
        and not (image.format == "PNG" and data[24] == 16)  # bits a channel: Pillow keeps 8 of them
        and not getattr(image, "is_animated", False)
        and not _profile(image)
    )


def _plain_jpeg(
    image: Image.Image, data: bytes, allow_truncated: bool, min_size: Callable[[Size], Size] | None
) -> np.ndarray | None:
    """A grey or colour JPEG by libjpeg-turbo: Pillow's bytes in a quarter of the time. None: Pillow shall do it."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return None
    height, width = 0, 0
    if min_size:
        turned = _orientation(image) >= 5
        full = (image.width, image.height) if turned else (image.height, image.width)
        height, width = min_size(full)[::-1] if turned else min_size(full)
    try:
        return np.asarray(
            simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, strict=not allow_truncated)
        )
    except ValueError:  # libjpeg has warned; whether the picture is lost, Pillow decides
        return None


def _load(image: Image.Image, allow_truncated: bool) -> bool:
    """Decode the pixels of an opened picture. False: only in part, which is allowed."""
    try:
        image.load()
    except Exception:
        if not allow_truncated or image._im is None:  # type: ignore[attr-defined]
            raise
        image.tile = []  # type: ignore[attr-defined]  # what was decoded is there; do not try again
        return False
    return True


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB: integers and profiles to 8-bit sRGB, transparency on white."""
    image = _eight_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        colour = _to_srgb(with_alpha.convert("RGB"), _profile(image))
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(colour, mask=with_alpha.getchannel("A"))
        return white
    return _to_srgb(image.convert("RGB") if image.mode == "P" else image, _profile(image))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, scaled (65535 becomes 255); Pillow's own conversion would clip. Raises Rejected for floats."""
    if image.mode == "F":
        raise Rejected("decode", "pixels are floating-point numbers, whose white is not defined")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise Rejected("decode", f"pixels are integers from {values.min()} to {values.max()}, whose white is not defined")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """(RGB, L, CMYK, ...) -> RGB in sRGB. A profile that is broken or of another colour space is ignored."""
    transform = _transform(profile, image.mode) if profile else None
    if transform is not None:
        converted = ImageCms.applyTransform(image, transform)
        if converted is not None:
            return converted
    return image.convert("RGB")


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, _srgb(), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _profile(image: Image.Image) -> bytes | None:
    """The ICC profile, unless it is sRGB or none at all."""
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile and not _is_srgb(profile) else None


@lru_cache(maxsize=32)
def _is_srgb(profile: bytes) -> bool:
    try:
        return "srgb" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).lower()
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False


def _orientation(image: Image.Image) -> int:
    """1..8; 1 where EXIF is missing or broken."""
    if image.format == "JPEG" and "exif" not in image.info:
        return 1  # the usual case, without a look into an empty directory
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF fails in as many ways as there are cameras
        return 1
    return value if value in TURNS else 1


def _with_info(pixels: Image.Image, image: Image.Image) -> Image.Image:
    pixels.info = {"icc_profile": image.info.get("icc_profile")}
    return pixels.convert("L") if image.mode == "L" else pixels


def _reason(image: Image.Image, error: Exception) -> str:
    words = _words(error)
    cut = any(word in words.lower() for word in ("truncated", "unexpected end", "premature", "incomplete"))
    return f"{'truncated' if cut else 'damaged'} {image.format}: {words}"


def _words(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
