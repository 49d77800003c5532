"""What stands in a JPEG before its pixels: orientation, ICC profile, further pictures. A few microseconds a file."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
ICC = b"ICC_PROFILE\0"
MULTI_PICTURE = b"MPF\0"

_APP1, _APP2, _SCAN, _END = 0xE1, 0xE2, 0xDA, 0xD9
_ORIENTATION, _NUMBERS = 0x0112, {3: "H", 4: "I", 8: "h", 9: "i"}  # as Pillow takes them: of 2 and 4 bytes
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


@dataclass(frozen=True, slots=True)
class JpegMetadata:
    """What the segments of a JPEG say about its pixels."""

    orientation: int  # 1..8 as in EXIF; 1 where it is absent or unreadable
    icc: bytes | None
    sound: bool  # every segment and the EXIF block could be read, and there is one picture only


def jpeg_metadata(data: bytes) -> JpegMetadata:
    """Read the segments up to the pixels. Damage is no error: what is unreadable counts as absent."""
    exif, xmp, profile, sound = list[bytes](), b"", list[bytes](), False
    for marker, start, end in _segments(data):
        if marker == _SCAN:
            sound = True
        elif marker == _APP1 and data.startswith(EXIF, start):
            exif.append(data[start + len(EXIF) : end])
        elif marker == _APP1 and data.startswith(XMP, start):
            xmp = data[start + len(XMP) : end]
        elif marker == _APP2 and data.startswith(ICC, start):
            profile.append(data[start + len(ICC) : end])
        elif marker == _APP2 and data.startswith(MULTI_PICTURE, start):
            return JpegMetadata(_turn(b"".join(exif), xmp) or 1, _joined(profile), sound=False)
    turn = _turn(b"".join(exif), xmp)
    return JpegMetadata(turn or 1, _joined(profile), sound and turn is not None)


def exif_orientation(exif: bytes) -> int | None:
    """The orientation in an EXIF block (a TIFF header and its first directory): 0 if it has none, None if damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is None:
            return None
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, at)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(order + _NUMBERS.get(kind, "H"), exif, at + 8)
                return value if kind in _NUMBERS and values == 1 and 1 <= value <= 8 else None
    except struct.error:
        return None
    return 0


def _turn(exif: bytes, xmp: bytes) -> int | None:
    """EXIF's word counts, then XMP's, as Pillow has it; None for a damaged EXIF block."""
    turn = exif_orientation(exif) if exif else 0
    if turn == 0 and (found := _XMP_ORIENTATION.search(xmp)):
        turn = int(found[1])
    return 1 if turn == 0 else turn


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment's content up to the first scan; stops where the bytes make no sense."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4])
        if length < 2 or marker == _END:
            return
        yield marker, at + 4, at + 2 + length
        if marker == _SCAN:
            return
        at += 2 + length


def _joined(chunks: list[bytes]) -> bytes | None:
    """The profile from its numbered chunks (number, count, content); None if one is missing."""
    ordered = sorted(chunks)
    if not ordered or any(len(one) < 2 for one in ordered) or ordered[0][1] != len(ordered):
        return None
    return b"".join(one[2:] for one in ordered)
