"""PNGs with more text than Pillow reads: a generator's whole workflow, or a profile of megabytes. Pixels do not depend on it."""

from __future__ import annotations

import zlib

from condprep.images.colour import MAX_PROFILE

_TEXT = (b"tEXt", b"zTXt", b"iTXt")


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


def _profile(chunk: bytes) -> bytes | None:
    """Name, NUL, method, and the packed profile."""
    unpack = zlib.decompressobj()
    try:
        profile = unpack.decompress(chunk.partition(b"\0")[2][1:], MAX_PROFILE)
    except zlib.error:
        return None
    return profile if unpack.eof else None
