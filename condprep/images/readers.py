"""The formats of pictures that are opened, how each is known by its first bytes, and what reads it. No other is opened.

Pillow's readers are called by class and not through `Image.open`: that keeps its pixel limit, which is a global of the
host program, out of the way of ours, and opens nothing that is not listed here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module

from PIL import ImageFile

from condprep.errors import Rejected


@dataclass(frozen=True, slots=True)
class Reader:
    """How a format is known, and the class that reads it; imported when it is needed."""

    magic: re.Pattern[bytes]
    module: str
    name: str
    extra: str | None = None  # of condprep, where the reader is a package of its own


def _pillow(magic: bytes, name: str) -> Reader:
    return Reader(re.compile(magic, re.DOTALL), f"PIL.{name}ImagePlugin", f"{name}ImageFile")


READERS = {  # the first whose magic matches; TGA, which has none but a plausible header, is last
    "JPEG": _pillow(rb"\xff\xd8\xff", "Jpeg"),
    "PNG": _pillow(rb"\x89PNG\r\n\x1a\n", "Png"),
    "WebP": _pillow(rb"RIFF.{4}WEBP", "WebP"),
    "AVIF": _pillow(rb".{4}ftyp(?:.{4}){0,12}?avi[fs]", "Avif"),
    "GIF": _pillow(rb"GIF8[79]a", "Gif"),
    "BMP": _pillow(rb"BM", "Bmp"),
    "TIFF": _pillow(rb"II[*+]\0|MM\0[*+]", "Tiff"),
    "JPEG 2000": _pillow(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51\0", "Jpeg2K"),
    "PPM": _pillow(rb"P[1-6]\s", "Ppm"),
    "ICO": _pillow(rb"\x00\x00\x01\x00[^\x00]\x00", "Ico"),
    "HEIC": Reader(
        re.compile(rb".{4}ftyp(?:.{4}){0,12}?(?:hei[cxms]|hev[cx]|mif1|msf1)", re.DOTALL),
        *("pillow_heif.as_plugin", "HeifImageFile", "heif"),
    ),
    "JPEG XL": Reader(
        re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", re.DOTALL),
        *("pillow_jxl.JpegXLImagePlugin", "JXLImageFile", "jxl"),
    ),
    "TGA": _pillow(rb".[\x00\x01][\x01\x02\x03\x09\x0a\x0b].{13}[\x01\x08\x10\x18\x20]", "Tga"),
}


def recognise(data: bytes) -> str:
    """The name of the format. Raises Rejected("decode", reason) for what is none of them."""
    for name, reader in READERS.items():
        if reader.magic.match(data):
            return name
    if not data:
        raise Rejected("decode", "empty file", code="empty")
    raise Rejected("decode", f"not a picture of a known format: starts with {data[:12]!r}", code="unknown-format")


def reader_class(format: str) -> type[ImageFile.ImageFile]:
    """What reads a format. Raises Rejected("decode", reason) where its package is not installed."""
    reader = READERS[format]
    try:
        found: type[ImageFile.ImageFile] = getattr(import_module(reader.module), reader.name)
    except ImportError:
        if reader.extra is None:
            raise
        reason = f"no reader for {format}: pip install 'condprep[{reader.extra}]'"
        raise Rejected("decode", reason, code="no-reader") from None
    return found


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) in the header of a JPEG XL picture, None where it cannot be found. Its reader decodes as soon as it opens."""
    at = 2 if data.startswith(b"\xff\x0a") else _codestream(data)
    if at is None:
        return None
    bits, used = int.from_bytes(data[at : at + 12], "little"), 0

    def take(count: int) -> int:
        nonlocal used
        used += count
        return bits >> (used - count) & ((1 << count) - 1)

    def side(small: int) -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height = side(small)
    across, down = ((0, 0), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[take(3)]
    return height, height * across // down if across else side(small)


def _codestream(data: bytes) -> int | None:
    """Where the pixels' header starts in a JPEG XL file of boxes."""
    at = 0
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        head = 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16]), 16
        if kind in (b"jxlc", b"jxlp"):
            start = at + head + 4 * (kind == b"jxlp")
            return start + 2 if data[start : start + 2] == b"\xff\x0a" else None
        if length < head:
            return None
        at += length
    return None
