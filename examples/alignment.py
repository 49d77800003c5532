"""Draws docs/images/alignment.webp: a photograph with its Canny map laid over it, as it is and misaligned in each way.

    python examples/alignment.py docs/images/alignment.webp

What `condprep verify` says about a pair stands below it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw
from skimage import data

from condprep.verification.alignment.comparison import compare

SIDE, SHOWN, TEXT = 512, 256, 44  # pixels: of a pair, of a pair on the sheet, of the words below
PER_ROW = 4


def moved(edges: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(edges, np.array([[1, 0, 12], [0, 1, -8]], np.float64), (SIDE, SIDE))


def smaller(edges: np.ndarray) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), 0, 0.92)
    return cv2.warpAffine(edges, matrix, (SIDE, SIDE))


def square(picture: np.ndarray) -> np.ndarray:
    side = min(picture.shape[:2])
    return cv2.resize(np.ascontiguousarray(picture[:side, :side]), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "aligned": lambda edges: edges,
    "shifted": moved,
    "flipped": lambda edges: edges[:, ::-1],
    "turned": np.rot90,
    "scaled": smaller,
    "cropped": lambda edges: cv2.resize(edges[60:440, 80:460], (SIDE, SIDE)),
    "other-picture": lambda _: cv2.Canny(square(data.coffee()), 100, 200),
}


def overlay(picture: np.ndarray, edges: np.ndarray) -> Image.Image:
    """The edges in yellow on the darkened picture."""
    dark = picture // 2
    dark[cv2.dilate(edges, np.ones((2, 2))) > 127] = (255, 220, 0)
    return Image.fromarray(dark).resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)


def wrapped(words: str) -> str:
    """In lines that fit under a picture."""
    lines = [""]
    for word in words.split():
        lines[-1:] = [f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < 40 else [lines[-1], word]
    return "\n".join(lines)


def main() -> None:
    picture = square(data.astronaut())
    edges = cv2.Canny(picture, 100, 200)
    sheet = Image.new("RGB", (PER_ROW * SHOWN, -(-len(WAYS) // PER_ROW) * (SHOWN + TEXT)), "white")
    for number, (rule, change) in enumerate(WAYS.items()):
        stored = np.ascontiguousarray(change(edges))
        x, y = number % PER_ROW * SHOWN, number // PER_ROW * (SHOWN + TEXT)
        sheet.paste(overlay(picture, stored), (x, y))
        said = compare(edges, stored).reason.removeprefix("condition ")
        ImageDraw.Draw(sheet).text((x + 4, y + SHOWN + 3), wrapped(f"{rule}: {said}" if said else rule), "black")
    sheet.save(Path(sys.argv[1]), quality=80)


if __name__ == "__main__":
    main()
