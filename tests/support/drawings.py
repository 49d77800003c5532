"""Photographs of any size, people that stand where they are told, their drawing, and maps that moved."""

from __future__ import annotations

import cv2
import numpy as np
from skimage import data

from condprep.annotators.openpose.draw import draw_bodies


def photo(name: str, height: int = 512, width: int = 512) -> np.ndarray:
    """(height, width, 3) uint8: the middle of a photograph, its shorter side resized."""
    picture = getattr(data, name)()
    picture = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
    scale = max(height / picture.shape[0], width / picture.shape[1])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    large = cv2.resize(picture[..., :3], size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    y, x = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return np.ascontiguousarray(large[y : y + height, x : x + width])


def shifted(picture: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """Moved to the right and down; what comes in is black."""
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    return cv2.warpAffine(picture, matrix, picture.shape[1::-1], flags=cv2.INTER_NEAREST)


def body(x: float, y: float, size: float, lean: float = 0.3) -> np.ndarray:
    """(18, 3): somebody who stands at (x, y) px, `size` px tall, one arm up."""
    points = [(0, -0.4), (0, -0.3), (-0.1, -0.3), (-0.2, -0.15), (-0.25, 0), (0.1, -0.3), (0.2, -0.4), (0.25, -0.55)]
    points += [(-0.07, 0), (-0.1, 0.25), (-0.1, 0.5), (0.07, 0), (0.15, 0.25), (0.1, 0.5)]
    points += [(-0.02, -0.43), (0.02, -0.43), (-0.05, -0.42), (0.05, -0.42)]
    place = np.array(points) * size + (x, y)
    place[:, 0] += lean * (place[:, 1] - y)
    return np.column_stack([place, np.ones(18)]).astype(np.float32)


def drawn(*people: tuple[float, ...]) -> np.ndarray:
    """(512, 512, 3): people as `body` places them, drawn as OpenPose draws."""
    return draw_bodies([body(*person) for person in people], 512, 512)
