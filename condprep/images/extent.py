"""How far a picture's bytes reach, and what they would cost to decode: known by its markers, before anything is decoded."""

from __future__ import annotations

import re

from condprep.errors import Rejected

MAX_SCANS = 100  # of a JPEG; the thriftiest encoders make a few dozen, and each one is a walk over all pixels
MAX_METADATA = 32 << 20  # bytes before a JPEG's pixels; its profile has at most 16 MB
MAX_TILE = 16_000_000  # pixels of a TIFF's tile, where the picture itself is smaller

_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # in compressed data, 0xff is followed by 0 or a restart
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF


def check_jpeg(data: bytes) -> None:
    """Raises Rejected("decode", ...) for a JPEG that takes out of proportion long: of thousands of scans, or all metadata."""
    if data.count(_SCAN) > MAX_SCANS and (scans := _walk(data)[1]) > MAX_SCANS:
        raise Rejected("decode", f"a JPEG of {scans:,} scans > limit {MAX_SCANS}", code="too-costly")
    if len(data) > MAX_METADATA and (first := _first_scan(data)) > MAX_METADATA:
        raise Rejected(
            "decode", f"a JPEG with {first:,} bytes before its pixels > limit {MAX_METADATA:,}", code="too-costly"
        )


def check_tiles(tags: dict[int, object], width: int, height: int) -> None:
    """The same for a TIFF: a tile is unpacked as a whole, however little of it the picture shows."""
    tile = [tags.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    across, down = (size if isinstance(size, int) else 0 for size in tile)
    if across * down > max(MAX_TILE, 4 * width * height):
        raise Rejected("decode", f"a TIFF of {width} x {height} px in tiles of {across} x {down} px", code="too-costly")


def within_its_end(data: bytes) -> bytes:
    """A JPEG, PNG or WebP without what lies behind it; the same object where nothing does."""
    end = _end(data)
    return data if end >= len(data) else data[:end]


def _end(data: bytes) -> int:
    if data.startswith(b"\xff\xd8"):
        return _walk(data)[0] if data.find(_END, _first_scan(data)) != len(data) - 2 else len(data)
    if data.startswith(b"\x89PNG"):
        return _end_of_png(data)
    if data.startswith(b"RIFF"):
        size = int.from_bytes(data[4:8], "little")
        return 8 + size + size % 2
    return len(data)


def _end_of_png(data: bytes) -> int:
    at = 8
    while at + 12 <= len(data):
        kind, at = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        if kind == b"IEND":
            return at
    return len(data)


def _first_scan(data: bytes) -> int:
    """Where a JPEG's first scan begins, after all that stands before its pixels."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda" and at + 4 <= len(data):
        at += 1 if data[at + 1] == 0xFF else 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    return at


def _walk(data: bytes) -> tuple[int, int]:
    """Where a JPEG ends, and how many scans it has."""
    at, scans = 2, 0
    while found := _MARKER.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        if marker == _END[1]:
            return at, scans
        scans += marker == _SCAN[1]
        at += int.from_bytes(data[at : at + 2])
    return len(data), scans
