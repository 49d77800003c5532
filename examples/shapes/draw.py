"""Draws pictures of coloured shapes with captions: a world that is small enough to be learned on a laptop.

    python examples/shapes/draw.py raw/ --pictures 1500

A picture has one to three circles, squares and triangles, 64 x 64 px, on a ground that contrasts with them. The same seed
draws the same pictures everywhere. Beside NAME.png lies NAME.txt with the caption: "a red circle and a blue square on
a white background".
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 64  # pixels
SMOOTH = 4  # drawn this much larger, then averaged
SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (215, 30, 40),
    "green": (25, 150, 60),
    "blue": (30, 70, 210),
    "yellow": (250, 210, 30),
    "orange": (245, 130, 20),
    "purple": (130, 40, 160),
    "pink": (250, 130, 180),
    "cyan": (30, 190, 210),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}
GROUNDS = ("white", "black", "blue", "yellow", "green", "purple")
CONTRAST = 0.3  # of luminance, 0..1: less is no edge for Canny(100, 200)


def picture(rng: random.Random) -> tuple[Image.Image, str]:
    """One picture, RGB, SIDE x SIDE, and its caption."""
    ground = rng.choice(GROUNDS)
    colours = [name for name in COLOURS if abs(luminance(name) - luminance(ground)) >= CONTRAST]
    canvas = Image.new("RGB", (SIDE * SMOOTH, SIDE * SMOOTH), COLOURS[ground])
    draw, words = ImageDraw.Draw(canvas), []
    for x, y, radius in places(rng, rng.choice((1, 1, 2, 2, 3))):
        shape, colour = rng.choice(SHAPES), rng.choice(colours)
        _draw(draw, shape, COLOURS[colour], x * SMOOTH, y * SMOOTH, radius * SMOOTH, rng.uniform(0, 2 * math.pi))
        words.append(f"{'an' if colour[0] == 'o' else 'a'} {colour} {shape}")
    return canvas.resize((SIDE, SIDE), Image.Resampling.BOX), f"{' and '.join(words)} on a {ground} background"


def pictures(seed: int, count: int) -> Iterator[tuple[Image.Image, str]]:
    """`count` pictures with their captions."""
    rng = random.Random(seed)
    for _ in range(count):
        yield picture(rng)


def luminance(colour: str) -> float:
    """0..1."""
    red, green, blue = COLOURS[colour]
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def places(rng: random.Random, count: int) -> list[tuple[float, float, float]]:
    """(x, y, radius) in pixels of shapes that neither touch nor leave the picture."""
    found: list[tuple[float, float, float]] = []
    while len(found) < count:
        radius = rng.uniform(8, (20, 15, 12)[count - 1])
        x, y = rng.uniform(radius + 1, SIDE - radius - 1), rng.uniform(radius + 1, SIDE - radius - 1)
        if all(math.hypot(x - other[0], y - other[1]) > radius + other[2] + 2 for other in found):
            found.append((x, y, radius))
        elif rng.random() < 0.05:
            found = []  # they may not fit as they lie
    return found


def _draw(
    draw: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], x: float, y: float, radius: float, turn: float
) -> None:
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        return
    corners = 4 if shape == "square" else 3
    angles = (turn + 2 * math.pi * corner / corners for corner in range(corners))
    draw.polygon([(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles], fill=colour)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for number, (image, caption) in enumerate(pictures(arguments.seed, arguments.pictures)):
        image.save(arguments.folder / f"{number:05d}.png")
        (arguments.folder / f"{number:05d}.txt").write_text(caption + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
