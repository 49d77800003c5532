"""What can be seen of a picture's quality without knowing the scene: is it sharp, exposed, whole, of its own resolution?

Everything is measured on the grey picture at its stored size, in less than a millisecond at 512 x 512. Sharpness is the width of edges,
not the amount of detail: a calm picture is not blurred, and a blurred wood is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from condprep.images.decode import Pixels

Grey = NDArray[np.uint8]  # (H, W)
Views = tuple[Grey, Grey]  # a picture, and its rows and columns exchanged

REACH = 9  # pixels: an edge of half that width is blurred, at any size that is trained
LEAST, MOST = 10, 32  # levels by which a neighbourhood must change to be looked at for edges
EDGES = 0.002  # share of the picture in which it must, for a direction to count
STRIDE = 3  # pixels between the places that are looked at
SHARPEST = 0.9  # the quantile of the edges that is taken: a portrait before a soft background is sharp
WINDOW = 256  # pixels of a spectrum
LINES = 64  # rows, and columns, whose spectra are averaged
BANDS = 16  # of the spectrum, from 0 to half a cycle a pixel
FULL_BANDS = slice(1, 4)  # those of structures of 8 to 32 px, which every picture has
HELD = 0.04  # of their energy: below it a band holds nothing
SMALL_STEP = 32  # levels: larger steps are edges of the scene, no borders of blocks
GRID = 66  # pixels: on fewer no grid of 8 can be told from chance
BAR = 24  # levels up to which a bar is black, with JPEG's noise
STRAIGHT = 0.3  # share of a bar's edge at which the picture steps up: a dark sky ends by and by, or here and there
BAR_SHARE = 0.02  # of the side that a bar takes at least


@dataclass(frozen=True, slots=True)
class Quality:
    """What is measured of a picture. Levels 0..255, shares 0..1."""

    sharpness: float | None  # 1 / width in pixels of the sharper edges, in the softer direction; None without edges
    held: float  # share of the resolution that holds anything: 0.5 for a picture that was enlarged to twice its size
    blocks: float  # levels by which the steps on a grid of 8 x 8 exceed those beside it
    dark: int  # 5 % of the picture are at most this light
    light: int  # 95 % of the picture are at most this light
    range: int  # levels between the darkest and the lightest hundredth
    bars: float  # share of the height or the width that black bars on both sides take


def greyed(rgb: Pixels) -> Grey:
    """(H, W, 3) uint8 RGB -> (H, W)."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def quality(rgb: Pixels) -> Quality:
    """(H, W, 3) uint8 RGB."""
    return quality_of_grey(greyed(rgb))


def quality_of_grey(grey: Grey) -> Quality:
    """The same of a picture that is grey by now."""
    views = grey, np.asarray(cv2.transpose(grey), np.uint8)
    steps = _steps(views[0]), _steps(views[1])
    lowest, dark, light, highest = levels(grey, (0.01, 0.05, 0.95, 0.99))
    return Quality(
        sharpness=sharpness(views, steps, min(max((highest - lowest) / 6, LEAST), MOST)),
        held=held_resolution(views),
        blocks=block_steps(steps),
        dark=dark,
        light=light,
        range=highest - lowest,
        bars=max(map(bars, views)),
    )


def levels(grey: Grey, shares: tuple[float, ...]) -> list[int]:
    """The levels below which those shares of the pixels lie."""
    counts = np.cumsum(cv2.calcHist([grey], [0], None, [256], [0, 256]))
    return [int(level) for level in np.searchsorted(counts, np.array(shares) * counts[-1])]


def _steps(grey: Grey) -> Grey:
    """(H, W) -> (H, W - 1): the differences of neighbours in a row."""
    return np.asarray(cv2.absdiff(grey[:, 1:], grey[:, :-1]), np.uint8) if grey.shape[1] > 1 else grey[:, 1:]


def sharpness(views: Views, steps: Views, contrast: float) -> float | None:
    """The steepest step between neighbours as a share of the whole change around it, at the sharper edges.

    1 for a step from one pixel to the next, 0.35 after a Gaussian blur of 2 px. Of the two directions the softer one
    counts: motion blurs one alone. contrast: levels by which REACH pixels must change to be looked at.
    """
    found = [_edges(*both, contrast) for both in zip(views, steps)]
    return min((value for value in found if value is not None), default=None)


def _edges(grey: Grey, steps: Grey, contrast: float) -> float | None:
    """Along the rows, of which one in STRIDE is looked at."""
    if grey.shape[1] < REACH:
        return None
    kernel = np.ones((1, REACH), np.uint8)
    rows, differences = (np.ascontiguousarray(one[::STRIDE]) for one in (grey, steps))
    change = cv2.subtract(cv2.dilate(rows, kernel), cv2.erode(rows, kernel))[:, :-1:STRIDE]
    steepest = cv2.dilate(differences, kernel)[:, ::STRIDE]
    there = change >= contrast
    if np.count_nonzero(there) < EDGES * there.size:
        return None
    ratios = np.divide(steepest, np.maximum(change, 1), dtype=np.float32)[there]
    np.minimum(
        ratios, 1, out=ratios
    )  # of the steps counted, the outermost may lead out of the pixels that the change is of
    at = int(SHARPEST * (len(ratios) - 1))
    return float(np.partition(ratios, at)[at])


def held_resolution(views: Views) -> float:
    """The share of the resolution up to which the spectrum holds something.

    The energy of a photograph's gradient is about the same in every band. Where it falls to nothing, the picture was
    enlarged, or blurred.
    """
    energy = _spectrum(views[0]) + _spectrum(views[1])
    holding = np.flatnonzero(energy >= HELD * energy[FULL_BANDS].mean())
    return float(holding[-1] + 1) / BANDS if len(holding) else 0.0


def _spectrum(grey: Grey) -> NDArray[np.float64]:
    """(BANDS,) mean energy of the gradient along the rows."""
    height, width = grey.shape
    side = min(WINDOW, width // (2 * BANDS) * 2 * BANDS)
    if not side:
        return np.zeros(BANDS)
    rows = grey[:: -(-height // LINES), : width // side * side].reshape(-1, side).astype(np.float32)
    waves = np.fft.rfft((rows - rows.mean(1, keepdims=True)) * _window(side), axis=1)[:, : side // 2]
    power = (np.abs(waves) ** 2).mean(0) * np.arange(side // 2) ** 2
    return np.asarray(power.reshape(BANDS, -1).mean(1))


@cache
def _window(side: int) -> NDArray[np.float64]:
    return np.hanning(side)


def block_steps(steps: Views) -> float:
    """By how many levels the steps at one of eight columns exceed those at the others, likewise for rows; the smaller.

    JPEG of low quality leaves borders on such a grid, wherever a crop has moved it to. Steps above SMALL_STEP are left out.
    """
    return min(map(_grid, steps))


def _grid(steps: Grey) -> float:
    if steps.shape[1] < GRID - 1:
        return 0.0
    small = cv2.threshold(steps, SMALL_STEP, 0, cv2.THRESH_TOZERO_INV)[1]
    columns = np.asarray(cv2.reduce(small, 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F))[0]
    phases = np.sort(columns[: len(columns) // 8 * 8].reshape(-1, 8).mean(0))
    return float(phases[-1] - phases[:-1].mean())


def bars(grey: Grey) -> float:
    """The share of the height that black bars at top and bottom take, 0 unless there are both, with straight edges."""
    if grey[0].max() > BAR or grey[-1].max() > BAR:
        return 0.0
    height = len(grey)
    black = np.asarray(cv2.reduce(grey, 1, cv2.REDUCE_MAX))[:, 0] <= BAR
    top, bottom = int(np.argmin(black)), int(np.argmin(black[::-1]))
    if black.all() or min(top, bottom) < BAR_SHARE * height:
        return 0.0
    edges = [(top - 1, min(top + 1, height - 1)), (height - bottom, max(height - bottom - 2, 0))]
    steps = [cv2.subtract(grey[inside], grey[bar]) for bar, inside in edges]
    straight = all((step > BAR).mean() >= STRAIGHT for step in steps)
    return (top + bottom) / height if straight else 0.0
