"""Pixels -> the bytes that are stored. Pictures as JPEG (quality 95, 4:4:4), PNG or WebP; maps always without loss."""

from __future__ import annotations

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
    return _opencv(".png", pixels, [cv2.IMWRITE_PNG_BILEVEL, 1] if binary else [])


def _opencv(suffix: str, pixels: np.ndarray, parameters: list[int]) -> bytes:
    ordered = pixels[..., ::-1] if pixels.ndim == 3 else pixels  # OpenCV writes BGR
    done, encoded = cv2.imencode(suffix, np.ascontiguousarray(ordered), parameters)
    if not done:
        raise ValueError(f"OpenCV could not encode {pixels.shape} as {suffix}")
    return encoded.tobytes()
