"""Odd pictures, made here: every mode, orientation and profile that a decoder must cope with; what Pillow makes of them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
SRGB = SRGB_PROFILE.tobytes()


def smooth(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: colourful, and smooth enough that lossy formats keep it within a few levels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(5 * (a * x + b * y) + c) for a, b, c in rng.uniform(-1, 1, (3, 3)) * (1, 1, 3)]
    return np.stack([127.5 + 120 * wave for wave in waves], -1).astype(np.uint8)


def encoded(picture: np.ndarray | Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    """A picture (array or PIL) as file bytes; `options` are Pillow's."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a picture's file, pixels."""
    with Image.open(path) as image:
        return image.size


def pillow(data: bytes) -> np.ndarray:
    """What any reader sees: `Image.open(...).convert("RGB")`, upright."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def with_orientation(picture: np.ndarray, format: str, orientation: int, **options: Any) -> bytes:
    """A picture whose EXIF block says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, format, exif=exif, **options)


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"", **chunks: bytes) -> bytes:
    """A PNG chunk by chunk; `rows` are the filtered scanlines, so a header may promise what is not there."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name.encode(), data) for name, data in parts.items())


def png16(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint16 as a 16-bit PNG."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(width, height, 16, 0 if pixels.ndim == 2 else 2, rows)


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header claims a size that its few pixels do not fill."""
    data = bytearray(encoded(smooth(8, 8)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """The JPEG with one more segment in front of all others."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def rgb_profile(gamma: float, primaries: np.ndarray) -> bytes:
    """An ICC profile: a power curve and a (3, 3) matrix from linear RGB to XYZ (D50), one column a primary."""
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    colours = {f"{name}XYZ".encode(): _xyz(column) for name, column in zip("rgb", primaries.T)}
    curves = {f"{name}TRC".encode(): curve for name in "rgb"}
    return _profile(b"mntr", b"RGB ", b"XYZ ", {**colours, **curves})


def grey_profile(gamma: float) -> bytes:
    """An ICC profile for grey with a power curve."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))})


def cmyk_profile(lab: dict[tuple[int, int, int, int], tuple[int, int, int]]) -> bytes:
    """An ICC profile for CMYK: the Lab colour (L 0..100, a, b) of each of the 16 combinations of full inks."""
    table = [lab.get((c, m, y, k), (0, 0, 0)) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    clut = bytes(value for L, a, b in table for value in (round(L * 2.55), a + 128, b + 128))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * ramp + clut + 3 * ramp
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut, b"A2B1": lut})


ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB_TO_XYZ = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78), b"wtpt": _WHITE, **tags}
    padded = {name: data + bytes(-len(data) % 4) for name, data in tags.items()}
    directory, at = struct.pack(">I", len(tags)), 128 + 4 + 12 * len(tags)
    for name, data in padded.items():
        directory += struct.pack(">4sII", name, at, len(tags[name]))
        at += len(data)
    header = struct.pack(">I4xI", at, 0x02400000) + kind + space + pcs + bytes(12) + b"acsp" + bytes(28)
    return header + _WHITE[8:] + bytes(128 - len(header) - 12) + directory + b"".join(padded.values())


def _xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


_WHITE = _xyz((0.9642, 1.0, 0.8249))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
