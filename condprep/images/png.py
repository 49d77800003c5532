"""PNGs with more text than Pillow reads: a generator's whole workflow, or a profile of megabytes. Pixels do not depend on it.

And what stands behind the pixels, for which Pillow would decode them first."""

from __future__ import annotations

import zlib

from condprep.images.colour import MAX_PROFILE
from condprep.images.extent import png_chunks

_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_FIRST = 33  # bytes: the signature and IHDR
_NO_PIXELS = b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4)


def is_about_text(error: Exception) -> bool:
    """Whether that is what Pillow complains of."""
    return "MAX_TEXT" in str(error)


def without_text(data: bytes) -> tuple[bytes, bytes | None]:
    """The PNG without its text and its profile, and the profile where it is one of at most MAX_PROFILE bytes."""
    kept, profile, at = [data[:8]], None, 8
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        end = at + 12 + length
        if kind == b"iCCP":
            profile = _profile(data[at + 8 : end - 4])
        elif kind not in _TEXT:
            kept.append(data[at:end])
        at = end
    return b"".join(kept), profile


def said_behind_pixels(data: bytes) -> bytes | None:
    """The EXIF and text behind the pixels as a PNG that has them in front, and no pixels; None where there are none."""
    found, at, pixels = [], 8, False
    for kind, end in png_chunks(data):
        if pixels and kind == b"fcTL":  # the next picture of an animation
            break
        if pixels and kind in (b"eXIf", *_TEXT):
            found.append(data[at:end])
        at, pixels = end, pixels or kind == b"IDAT"
    return data[:_FIRST] + b"".join(found) + _NO_PIXELS if found else None


def _profile(chunk: bytes) -> bytes | None:
    """Name, NUL, method, and the packed profile."""
    unpack = zlib.decompressobj()
    try:
        profile = unpack.decompress(chunk.partition(b"\0")[2][1:], MAX_PROFILE)
    except zlib.error:
        return None
    return profile if unpack.eof else None
