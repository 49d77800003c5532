"""How far a picture's bytes reach: known by its markers, before anything is decoded."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # in compressed data, 0xff is followed by 0 or a restart
_ALONE = frozenset((0x01, *range(0xD0, 0xDA)))  # markers without a length
_FILL = (0x00, 0xFF)  # bytes after 0xff that make no marker


def within_its_end(data: bytes) -> bytes:
    """A JPEG, PNG or WebP without what lies behind it; the same object where nothing does."""
    end = _end(data)
    return data if end >= len(data) else data[:end]


def _end(data: bytes) -> int:
    if data.startswith(b"\xff\xd8"):
        first, _ = jpeg_way_to_pixels(data, len(data))
        return jpeg_walk(data)[0] if data.find(_END, first) != len(data) - 2 else len(data)
    if data.startswith(b"\x89PNG"):
        return next((end for kind, end in png_chunks(data) if kind == b"IEND"), len(data))
    if data.startswith(b"RIFF"):
        size = int.from_bytes(data[4:8], "little")
        return 8 + size + size % 2
    return len(data)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The kind of each chunk up to IEND, and where it ends."""
    at, kind = 8, b""
    while at + 12 <= len(data) and kind != b"IEND":
        kind, at = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        yield kind, at


def jpeg_way_to_pixels(data: bytes, most: int) -> tuple[int, int]:
    """Where a JPEG's first scan begins, and how many segments and stray bytes lie before it, counted to just above `most`."""
    at, parts = 2, 0
    while at + 4 <= len(data) and parts <= most:
        marker = data[at + 1] if data[at] == 0xFF else 0
        if marker == _SCAN[1]:
            break
        parts += 1
        if marker in _FILL:
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    return at, parts


def jpeg_walk(data: bytes) -> tuple[int, int]:
    """Where a JPEG ends, and how many scans it has."""
    at, scans = 2, 0
    while found := _MARKER.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        if marker == _END[1]:
            return at, scans
        scans += marker == _SCAN[1]
        at += int.from_bytes(data[at : at + 2])
    return len(data), scans
