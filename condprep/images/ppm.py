"""PPM that Pillow would read a sample at a time, in Python: the same pixels in a form that it reads at once.

Of binary files those are the ones whose largest value is neither 255 nor 65535; of files of text those with comments.
"""

from __future__ import annotations

import re

import numpy as np

from condprep.errors import Rejected

MAX_HEADER = 1 << 20  # bytes, comments among them
MAX_TEXT = 32 << 20  # bytes of numbers that are written out

_BETWEEN = rb"(?:\s|#[^\r\n]*[\r\n])+"
_SIZE = re.compile(rb"P([1-6])%b(\d+)%b(\d+)" % (_BETWEEN, _BETWEEN))
_LARGEST = re.compile(rb"%b(\d{1,5})\s" % _BETWEEN)
_COMMENT = re.compile(rb"#[^\r\n]*[\r\n]?")


def check_ppm(data: bytes) -> None:
    """Raises Rejected("decode", ...) for one that takes out of proportion long: comments without end, or text."""
    if len(data) > MAX_HEADER and not _SIZE.match(data[:MAX_HEADER]):
        raise Rejected("decode", f"a PPM without a size in its first {MAX_HEADER:,} bytes", code="too-costly")
    if len(data) > MAX_TEXT and data[1:2] in b"123":
        reason = f"a PPM of {len(data):,} bytes of text > limit {MAX_TEXT:,}; save it as binary"
        raise Rejected("decode", reason, code="too-costly")


def readable_ppm(data: bytes) -> bytes:
    """The file, or one of the same pixels."""
    size = _SIZE.match(data)
    if size is None:
        return data
    if size[1] in b"123":
        return _without_comments(data, size.end())
    largest = _LARGEST.match(data, size.end(), size.end() + MAX_HEADER)
    if size[1] == b"4" or largest is None or not 0 < int(largest[1]) < 65536:
        return data
    return _stretched(data, size, int(largest[1]), largest.end())


def _without_comments(data: bytes, start: int) -> bytes:
    return data[:start] + _COMMENT.sub(b"", data[start:]) if data.find(b"#", start) > 0 else data


def _stretched(data: bytes, size: re.Match[bytes], largest: int, start: int) -> bytes:
    """With values up to 255, or 65535 where a grey picture has more than that many, rounded as Pillow rounds them."""
    wide, grey = largest > 255, size[1] == b"5"
    full = 65535 if wide and grey else 255
    if largest == full:
        return data
    values = np.frombuffer(data, ">u2" if wide else "u1", (len(data) - start) // (1 + wide), start)
    table = np.minimum(np.rint(np.arange(65536 if wide else 256) / largest * full), full)
    stretched: bytes = table.astype(">u2" if full == 65535 else "u1")[values].tobytes()
    return b"P%b %b %b %d\n" % (size[1], size[2], size[3], full) + stretched
