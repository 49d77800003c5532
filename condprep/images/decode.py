"""Encoded bytes -> RGB pixels, one canonical way.

Pixels are (H, W, 3) uint8 sRGB, C-contiguous, upright: EXIF orientation applied, alpha composited on white, palette,
grey, CMYK, 16 bit and ICC profiles brought to 8-bit sRGB. 16 bits become 8 by keeping the high byte. Of an animation
the first frame is taken. Formats whose readers run an interpreter (SVG, PDF, EPS ...) are never opened.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from condprep.errors import Rejected
from condprep.images.colour import is_srgb, rgb_image, to_srgb
from condprep.images.cost import check_cost, check_tiles, is_hollow_jpeg, is_hollow_png
from condprep.images.exif import jpeg_metadata
from condprep.images.geometry import FULL, Grid
from condprep.images.png import is_about_text, said_behind_pixels, without_text
from condprep.images.ppm import readable_ppm
from condprep.images.readers import jxl_size, reader_class, recognise
from condprep.runtime.quiet import quiet_pillow
from condprep.runtime.retry import is_passing

Pixels = NDArray[np.uint8]
Reduction = Callable[[tuple[int, int]], int]

MAX_PIXELS = 200_000_000
HUGE = 32_000_000  # pixels; larger pictures are decoded one at a time, so that threads do not add up their memory

_huge = threading.Lock()


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture."""

    rgb: Pixels  # (H, W, 3) uint8 sRGB, C-contiguous; smaller than `size` where `reduction` allowed it
    size: tuple[int, int]  # (H, W) of the full picture, upright
    pristine: bool  # its very bytes, up to its end, may stand in a dataset: any reader sees exactly these pixels
    grid: Grid = FULL  # where the pixels of `rgb` lie on the full picture


def decode(
    data: bytes, *, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False, reduction: Reduction | None = None
) -> Picture:
    """Decode a picture of one of the formats in `readers`. Raises Rejected("decode", reason) for what cannot be a row.

    max_pixels: checked in the header, before memory for pixels is taken.
    allow_truncated: keep the readable part of a damaged picture; the rest is what its decoder leaves there.
    reduction: given the full (H, W), how many times smaller a JPEG may be decoded: 1, 2, 4 or 8. libjpeg has fast ways
        for these.

    Pristine is an undamaged 8-bit RGB JPEG, PNG or WebP with one frame, upright, without alpha and without an ICC
    profile other than sRGB, decoded in full.
    """
    name = recognise(data)
    check_cost(name, data)
    try:
        if name == "JPEG" and (picture := _fast_jpeg(data, max_pixels, allow_truncated, reduction)):
            return picture
        with quiet_pillow():
            return _through_pillow(data, name, max_pixels, allow_truncated)
    except Rejected:
        raise
    except Exception as error:  # hostile bytes make parsers raise nearly anything
        raise _rejected(name, error) from None


@dataclass(frozen=True, slots=True)
class Header:
    """How a picture is stored."""

    format: str  # "JPEG", "PNG", ...
    mode: str  # Pillow's: "RGB", "L", "RGBA", "I;16", ...
    size: tuple[int, int]  # (H, W) as stored, not turned
    orientation: int  # 1..8 as in EXIF; 1 where it is absent or unreadable


def header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Header:
    """What the bytes before the pixels say. Raises Rejected("decode", reason) as `decode` does."""
    name = recognise(data)
    check_cost(name, data)
    try:
        with quiet_pillow():
            image = _open(name, data, max_pixels)
            mode = "RGBA" if image.mode in ("RGB", "L", "P") and "transparency" in image.info else image.mode
            return Header(name, mode, (image.height, image.width), _orientation_said(image, name, data) or 1)
    except Exception as error:  # hostile bytes make parsers raise nearly anything
        raise _rejected(name, error) from None


def pixels_of(data: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """How many pixels `decode` takes memory for, as the header says; 0 for what it will reject."""
    try:
        if recognise(data) == "JPEG":
            height, width = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
        else:
            height, width = header(data, max_pixels=max_pixels).size
    except (ValueError, KeyError, Rejected):
        return 0
    return int(height * width) if height * width <= max_pixels else 0


def rgb_pixels(image: Image.Image) -> Pixels:
    """The canonical pixels of a picture that is already a PIL image. (H, W, 3) uint8 sRGB, a copy.

    Raises Rejected("decode", reason) for a mode without a defined range ("I", "F").
    """
    image.load()
    plain_grey = image.mode in ("1", "L") and not {"icc_profile", "transparency"} & image.info.keys()
    # a map's way: the same pixels without Pillow's copies in RGB
    pixels = (
        cv2.cvtColor(np.asarray(image.convert("L")), cv2.COLOR_GRAY2RGB) if plain_grey else np.array(rgb_image(image))
    )
    return upright(np.asarray(pixels, np.uint8), _orientation(image) or 1)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels as EXIF orientation 1..8 wants them shown, C-contiguous."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _rejected(name: str, error: Exception) -> Rejected:
    """What a decoder says, as a reject. Raises it as it is where the machine is to blame and not the picture."""
    if is_passing(error):
        raise error
    text = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return Rejected("decode", text.partition(",")[0], code="too-many-pixels")
    if re.search(r"truncated|premature end of (jpeg|input)|unexpected end", text, re.IGNORECASE):
        return Rejected("decode", f"truncated {name}", code="truncated")
    return Rejected("decode", f"broken {name}: {text}", code="damaged")


def _check_pixels(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        found, limit = height * width / 1e6, max_pixels / 1e6
        reason = f"{width} x {height} px = {found:g} Mpx > limit {limit:g} Mpx"
        raise Rejected("decode", reason, code="too-many-pixels")


def _turn_for(height: int, width: int, max_pixels: int) -> AbstractContextManager[None]:
    return _alone(max_pixels) if height * width > HUGE else nullcontext()


@contextmanager
def _alone(max_pixels: int) -> Iterator[None]:
    """One thread at a time. Pillow's limit is ours meanwhile: its TIFF and WebP readers check it by themselves."""
    with _huge:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, (max_pixels + 1) // 2  # an error at twice that
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _fast_jpeg(data: bytes, max_pixels: int, allow_truncated: bool, reduction: Reduction | None) -> Picture | None:
    """A grey or colour JPEG: Pillow's pixels in less of the time. None for one that has to go through Pillow."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # damaged, or a chroma subsampling that simplejpeg has no name for, as 4:4:1
        return None
    if colours not in ("YCbCr", "RGB", "Gray"):
        return None
    _check_pixels(height, width, max_pixels)
    if height * width > HUGE and is_hollow_jpeg(data, height * width) and not allow_truncated:
        raise Rejected("decode", "truncated JPEG", code="truncated")
    meta = jpeg_metadata(data)
    size = (width, height) if meta.orientation > 4 else (height, width)
    side = reduction(size) if reduction else 1
    with _turn_for(height, width, max_pixels):
        rgb = _jpeg_pixels(data, (height, width), side, allow_truncated)
        if rgb is None:
            return None
        srgb = meta.icc is None or is_srgb(meta.icc)
        if not srgb:
            rgb = np.array(to_srgb(Image.fromarray(rgb[..., 0] if colours == "Gray" else rgb), meta.icc))
        pristine = meta.sound and srgb and colours != "Gray" and meta.orientation == 1
        rgb = upright(rgb, meta.orientation)
    return Picture(rgb, size, pristine and side == 1, _grid(size, side, meta.orientation))


def _grid(size: tuple[int, int], side: int, orientation: int) -> Grid:
    """libjpeg's last pixels may lie partly outside the picture; they are the first ones once it is turned or mirrored."""
    beyond = (-size[0] % side / side, -size[1] % side / side)
    from_below, from_right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return Grid(side, (beyond[0] * from_below, beyond[1] * from_right))


def _jpeg_pixels(data: bytes, size: tuple[int, int], side: int, allow_truncated: bool) -> Pixels | None:
    """(H, W, 3), `side` times smaller than `size`; None where libjpeg complains, but not enough for a reject."""
    least = (-(-size[0] // side), -(-size[1] // side))
    shrink = {"min_height": least[0], "min_width": least[1], "min_factor": side} if side > 1 else {}
    try:
        rgb: Pixels = simplejpeg.decode_jpeg(data, **shrink)
    except ValueError as error:
        # the other complaints are about headers (an unknown JFIF revision ...), and every viewer ignores them
        if not allow_truncated and re.search("corrupt|premature", str(error), re.IGNORECASE):
            raise
        return None
    return rgb


def _through_pillow(data: bytes, name: str, max_pixels: int, allow_truncated: bool) -> Picture:
    if name == "JPEG" and allow_truncated:
        data += b"\xff\xd9"  # libjpeg then shows what it has; a second end marker after the first is never read
    if name == "WebP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise Rejected("decode", "truncated WebP", code="truncated")
    if name == "PPM":
        data = readable_ppm(data)
    try:
        return _pixels(_open(name, data, max_pixels), name, data, max_pixels, allow_truncated)
    except ValueError as error:
        if name != "PNG" or not is_about_text(error):
            raise
    lean, profile = without_text(data)
    image = _open(name, lean, max_pixels)
    image.info["icc_profile"] = profile
    picture = _pixels(image, name, lean, max_pixels, allow_truncated)
    return replace(picture, pristine=False)  # other readers stumble over the text, too


def _pixels(image: ImageFile.ImageFile, name: str, data: bytes, max_pixels: int, allow_truncated: bool) -> Picture:
    width, height = image.size
    _check_pixels(height, width, max_pixels)
    if name == "PNG" and height * width > HUGE and is_hollow_png(data) and not allow_truncated:
        raise Rejected("decode", "truncated PNG", code="truncated")
    if name == "TIFF":
        check_tiles(getattr(image, "tag_v2", {}), width, height)
    # an icon's own header may promise more than its directory
    with _alone(max_pixels) if name == "ICO" else _turn_for(height, width, max_pixels):
        intact = _load(image, allow_truncated)
        rgb = rgb_pixels(image)
    return Picture(rgb, (rgb.shape[0], rgb.shape[1]), intact and _is_pristine(image, name, data))


def _open(name: str, data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """The picture with its header read."""
    reader = reader_class(name)
    if name == "JPEG XL":
        _check_pixels(*(jxl_size(data) or (1, max_pixels + 1)), max_pixels)
    try:
        return reader(io.BytesIO(data))
    except Image.DecompressionBombError:  # by Pillow's limit
        with _alone(max_pixels):
            return reader(io.BytesIO(data))


def _load(image: ImageFile.ImageFile, allow_truncated: bool) -> bool:
    """Decode; whether it went through. What was decoded before a failure stays in the image, and may suffice."""
    try:
        image.load()
    except Exception as error:
        if not allow_truncated or is_passing(error):
            raise
        image.tile = []  # nothing more to decode
        return False
    return True


def _is_pristine(image: ImageFile.ImageFile, name: str, data: bytes) -> bool:
    eight_bit_rgb = {"PNG": data[24:26] == b"\x08\x02", "WebP": image.mode == "RGB"}
    icc = image.info.get("icc_profile")
    return (
        eight_bit_rgb.get(name, False)
        and "transparency" not in image.info
        and getattr(image, "n_frames", 1) == 1
        and _orientation(image) == 1
        and (icc is None or is_srgb(icc))
    )


def _orientation_said(image: ImageFile.ImageFile, name: str, data: bytes) -> int | None:
    """The same before anything is decoded: Pillow decodes a PNG without EXIF to look for it behind the pixels."""
    if name != "PNG":
        return _orientation(image)
    try:
        if behind := said_behind_pixels(data):
            image.info |= reader_class(name)(io.BytesIO(behind)).info
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # as below
        return None
    return value if value in range(1, 9) else None


def _orientation(image: Image.Image) -> int | None:
    """1..8; None if the EXIF block is damaged. A TIFF was turned when it was loaded."""
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's EXIF reader has no error of its own
        return None
    return value if value in range(1, 9) else None
