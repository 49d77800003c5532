"""Pixels -> the bytes that are stored. Pictures as JPEG (quality 95, 4:4:4), PNG or WebP; maps always without loss."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import simplejpeg

from condprep.types import ImageFormat


def encode_picture(rgb: np.ndarray, image_format: ImageFormat = "jpeg", quality: int = 95) -> bytes:
    """(H, W, 3) uint8 RGB, C-contiguous -> bytes. quality 1..100, for JPEG (4:4:4: full chroma) and WebP."""
    if image_format == "jpeg":
        return bytes(simplejpeg.encode_jpeg(rgb, quality, "RGB", "444"))
    if image_format == "webp":
        return _opencv(".webp", rgb, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return _opencv(".png", rgb, [])


def encode_map(pixels: np.ndarray, binary: bool) -> bytes:
    """(H, W) or (H, W, 3) RGB uint8 -> PNG. binary: the map holds 0 and 255 only and takes one bit a pixel."""
    return _one_bit_png(pixels) if binary else _opencv(".png", pixels, [])


def _one_bit_png(pixels: np.ndarray) -> bytes:
    """(H, W) uint8, 0 and 255 -> a PNG of one bit a pixel: three times as fast as OpenCV's and a quarter smaller.

    The rows are packed and not filtered, and zlib looks for runs only: that suits lines on black.
    """
    height, width = pixels.shape
    rows = np.zeros((height, 1 + (width + 7) // 8), np.uint8)  # each begins with its filter: 0, none
    rows[:, 1:] = np.packbits(pixels, axis=1)
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # one bit, grey
    chunks = (b"IHDR", header), (b"IDAT", packer.compress(rows.tobytes()) + packer.flush()), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, *zip(*chunks)))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _opencv(suffix: str, pixels: np.ndarray, parameters: list[int]) -> bytes:
    ordered = pixels[..., ::-1] if pixels.ndim == 3 else pixels  # OpenCV writes BGR
    done, encoded = cv2.imencode(suffix, np.ascontiguousarray(ordered), parameters)
    if not done:
        raise ValueError(f"OpenCV could not encode {pixels.shape} as {suffix}")
    return encoded.tobytes()
