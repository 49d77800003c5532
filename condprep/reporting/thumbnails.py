"""Small pictures as text that a page can hold."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

import cv2

from condprep.images.encode import encode_picture
from condprep.verification.opened import open_picture

SIDES = (512, 384, 256)  # pixels of the longer side; the largest of which the page holds all pictures
BYTES_A_PIXEL = 0.19  # of a thumbnail as text; photographs and edges, measured
QUALITY = 62  # of WebP


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture for the page, or why there is none."""

    uri: str = ""  # data:image/webp;base64,...
    size: tuple[int, int] | None = None  # (width, height) of the thumbnail, pixels
    problem: str = ""


def fitting_side(pictures: int, budget: int) -> int:
    """The side of thumbnails of which `pictures` take about `budget` bytes, pixels."""
    return next((side for side in SIDES if pictures * side**2 * BYTES_A_PIXEL <= budget), SIDES[-1])


def thumbnail(data: bytes, side: int) -> Thumbnail:
    """Any encoded picture, decoded as everywhere in condprep and fitted into `side` x `side` pixels; never enlarged."""
    opened = open_picture(data)
    if opened.rgb is None:
        return Thumbnail(problem=opened.problem or "cannot be decoded")
    height, width = opened.rgb.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    rgb = opened.rgb if scale == 1 else cv2.resize(opened.rgb, size, interpolation=cv2.INTER_AREA)
    return Thumbnail(f"data:image/webp;base64,{b64encode(encode_picture(rgb, 'webp', QUALITY)).decode()}", size)
