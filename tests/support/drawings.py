"""Photographs of any size, people that stand where they are told, their drawing, and maps that moved."""

from __future__ import annotations

import cv2
import numpy as np
from skimage import data

from condprep.annotators.openpose.draw import draw_bodies
from condprep.verification.alignment.registration import unscaled


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


def canny(picture: np.ndarray, low: int = 100, high: int = 200) -> np.ndarray:
    return cv2.Canny(picture, low, high)


def soft(picture: np.ndarray) -> np.ndarray:
    """A map of thick grey lines: the gradient of the smoothed picture."""
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 3)
    strength = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return np.clip(strength / np.percentile(strength, 99) * 255, 0, 255).astype(np.uint8)


def filled(picture: np.ndarray) -> np.ndarray:
    """Line art that fills what is darker than its surroundings."""
    darker = (cv2.GaussianBlur(picture, (0, 0), 6).astype(np.float32) - picture).min(2).clip(0)
    return np.clip(darker / max(16, np.median(darker[darker > 8])) * 127, 0, 255).astype(np.uint8)


def jpeg(picture: np.ndarray, quality: int = 95) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def enlarged(picture: np.ndarray, scale: float) -> np.ndarray:
    return unscaled(picture, 1 / scale)
