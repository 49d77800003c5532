"""Columns beside a map that have its pixels, as PNGs: raw depth, and what is missing of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from condprep.images.geometry import Placement

PIXEL_COLUMNS = frozenset({"depth_raw", "inpaint_mask"})


def png(levels: np.ndarray) -> bytes:
    """(H, W) uint8 or uint16 -> a grey PNG of 8 or 16 bits."""
    return cv2.imencode(".png", levels)[1].tobytes()


def padded(value: Mapping[str, Any], placement: Placement) -> dict[str, Any]:
    """A value with a `png` on the canvas of its picture; around the content the lowest level, as black as the map."""
    (top, left), (height, width) = placement.offset, placement.content
    bottom, right = placement.canvas[0] - top - height, placement.canvas[1] - left - width
    levels = cv2.imdecode(np.frombuffer(value["png"], np.uint8), cv2.IMREAD_UNCHANGED)
    return {**value, "png": png(cv2.copyMakeBorder(levels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0))}
