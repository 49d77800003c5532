"""What a picture would cost to read beyond its pixels: counted in its bytes, before anything is decoded.

A decoder cannot be interrupted, so what makes it slow has limits: passes over all pixels, and small parts of which a reader
takes one after the other. Within them a picture takes less than a second, and half a second for each megapixel and megabyte.
"""

from __future__ import annotations

import numpy as np

from condprep.errors import Rejected
from condprep.images.extent import jpeg_walk, jpeg_way_to_pixels, png_chunks
from condprep.images.ppm import check_ppm

MAX_SCANS = 100  # of a JPEG; the thriftiest encoders make a few dozen, and each one is a walk over all pixels
MAX_METADATA = 32 << 20  # bytes before the pixels of a JPEG or GIF; a profile has at most 16 MB
MAX_PARTS = 10_000  # segments, chunks, blocks and stray bytes before the pixels
LEAST_CHUNK = 1000  # bytes of a PNG's chunks on average, where there are more than that; encoders write 8,192 or more
MAX_TILE = 16_000_000  # pixels of a TIFF's tile, where the picture itself is smaller
MOST_PACKED = 1032  # times smaller than its pixels is the smallest PNG, by what deflate can do

_ARITHMETIC = (0xC9, 0xCA)  # frames of a JPEG
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour types
_SCAN = b"\xff\xda"
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B  # blocks of a GIF


def check_cost(name: str, data: bytes) -> None:
    """Raises Rejected("decode", ...) for a picture of that format which takes out of proportion long."""
    if check := _CHECKS.get(name):
        check(data)


def check_tiles(tags: dict[int, object], width: int, height: int) -> None:
    """The same for a TIFF: a tile is unpacked as a whole, however little of it the picture shows."""
    tile = [tags.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    across, down = (size if isinstance(size, int) else 0 for size in tile)
    if across * down > max(MAX_TILE, 4 * width * height):
        raise _too_costly(f"a TIFF of {width} x {height} px in tiles of {across} x {down} px")


def _check_jpeg(data: bytes) -> None:
    first, parts = jpeg_way_to_pixels(data, MAX_PARTS)
    _check_start("JPEG", first, parts)
    if _pairs(data, _SCAN) > MAX_SCANS and (scans := jpeg_walk(data)[1]) > MAX_SCANS:
        raise _too_costly(f"a JPEG of {scans:,} scans > limit {MAX_SCANS}")


def _pairs(data: bytes, pair: bytes) -> int:
    """`data.count(pair)` of two different bytes, in a tenth of its time."""
    starts = [first for first in (0, 1) if len(data) >= first + 2]
    words = (np.frombuffer(data, np.uint16, (len(data) - first) // 2, first) for first in starts)
    return sum(int(np.count_nonzero(one == np.frombuffer(pair, np.uint16))) for one in words)


def is_hollow_jpeg(data: bytes, pixels: int) -> bool:
    """Whether its bytes cannot hold so many pixels: a block of 64 takes a bit at least, where it is no arithmetic code."""
    return len(data) * 8 * 64 < pixels and not any(b"\xff" + bytes([kind]) in data for kind in _ARITHMETIC)


def is_hollow_png(data: bytes) -> bool:
    """The same of a PNG: deflate packs 1032 to 1 at most."""
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    depth, colour = data[24:26].ljust(2, b"\0")
    return len(data) * MOST_PACKED < height * (width * depth * _CHANNELS.get(colour, 0) // 8)


def _check_png(data: bytes) -> None:
    most = MAX_PARTS + len(data) // LEAST_CHUNK
    for number, _ in enumerate(png_chunks(data)):
        if number > most:
            raise _too_costly(f"a PNG of {len(data):,} bytes in more than {most:,} chunks")


def _check_gif(data: bytes) -> None:
    _check_start("GIF", *_gif_way_to_pixels(data))


def _gif_way_to_pixels(data: bytes) -> tuple[int, int]:
    """Where a GIF's first image begins, and how many blocks and stray bytes lie before it, counted to the limit."""
    at = 13 + ((6 << (data[10] & 7)) if data[10:11] and data[10] & 0x80 else 0)
    parts = 0
    while at < min(len(data), MAX_METADATA + 1) and parts <= MAX_PARTS and data[at] not in (_IMAGE, _TRAILER):
        parts += 1
        extension = data[at] == _EXTENSION
        at += 1 + extension
        while extension and at < len(data) and data[at]:  # its parts, up to an empty one
            at += 1 + data[at]
        at += extension
    return at, parts


def _check_start(name: str, first: int, parts: int) -> None:
    """first: bytes before the pixels."""
    if parts > MAX_PARTS:
        raise _too_costly(f"a {name} with more than {MAX_PARTS:,} segments or stray bytes before its pixels")
    if first > MAX_METADATA:
        raise _too_costly(f"a {name} with {first:,} bytes before its pixels > limit {MAX_METADATA:,}")


def _too_costly(reason: str) -> Rejected:
    return Rejected("decode", reason, code="too-costly")


_CHECKS = {"JPEG": _check_jpeg, "PNG": _check_png, "GIF": _check_gif, "PPM": check_ppm}
