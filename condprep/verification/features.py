"""Which kind of condition a map looks like, by measured features of its pixels, never by its name.

The features are shares and ratios of one map, so they do not depend on its size: is it grey or coloured, does it hold
two levels only, do thin bright structures carry it (they vanish under an opening) or areas, are its steps gentle. A map
between two kinds is of no kind (None): the checks then stay silent.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from condprep.images.decode import Pixels
from condprep.types import CONDITION_KINDS

LINES = ("canny", "scribble", "softedge", "pose")  # light on dark, by every convention of ControlNet
BINARY = ("canny", "scribble")

# What a map may look like, where the dataset says what it is. Line art is drawn in many ways; people can be absent.
ACCEPTED = {kind: {kind} for kind in CONDITION_KINDS} | {
    "scribble": {"scribble", "canny", "softedge"},
    "lineart": {"lineart", "softedge", "canny", "scribble"},
    **{kind: {kind, "colours"} for kind in ("normal", "segmentation")},
    # A picture looks like anything; but what has no details is not drawn in two levels, and what is grey has no colours
    **{kind: {*CONDITION_KINDS, "picture", "colours"} for kind in ("color", "inpaint")},
    **{kind: {*CONDITION_KINDS, "picture", "colours"} - {*BINARY} for kind in ("tile", "blur")},
    "gray": {*CONDITION_KINDS, "picture"} - {"pose", "normal"},
}

SMALL = 256  # pixels of the longer side at which areas are told from lines
SAMPLE = 192  # pixels of the longer side at which colours are looked at, without mixing them
OPENING = 11  # pixels at that size, 4 % of the side: wider than any line, narrower than most areas
AWAY = 25.0  # levels
BLANK = 2  # levels between a map's lowest and highest up to which it shows nothing
DARK, LIGHT = 16, 239  # levels up to which, and from which on, a pixel is background


@dataclass(frozen=True, slots=True)
class Features:
    """What is measured of a map. Shares are of all pixels unless they say otherwise."""

    low: int  # the lowest level of any channel
    high: int  # and the highest
    spread: int  # levels of green between the 1st and the 99th percentile
    coloured: float  # share of the pixels that are not dark whose channels differ by more than 40 levels
    dark: float  # share of pixels at most DARK in all channels
    light: float  # share of pixels at least LIGHT in all channels
    extremes: float  # share of pixels whose green is exactly 0 or exactly 255
    thin: float  # share of the brightness (above the background) that an opening takes away: 1 for lines, 0 for areas
    thick: float  # share of the bright pixels that are the centre of 3 x 3 bright ones
    levels: int  # how many grey levels (of green) hold 99.5 % of the pixels
    same: float  # share of pixels equal to their right neighbour
    gentle: float  # of those that are not, the share that differ by at most 3 levels
    rough: float  # share of pixels that differ from their right neighbour by more than 6 levels
    unit: float  # share of pixels that are unit vectors (|v| 0.85..1.15 of v = rgb / 127.5 - 1)
    facing: (
        float  # how far, in levels, the sum of the means of red and blue is above 255: a normal's z is one of the two
    )
    saturated: float  # mean saturation (max - min) / max of the pixels that are not dark


def measure_features(rgb: Pixels, grey: bool = False) -> Features:
    """Measure a map. (H, W, 3) uint8 RGB; grey: its channels are known to be equal, which makes this faster, no different."""
    green = cv2.extractChannel(rgb, 1)
    most, least = (green, green) if grey else _envelope(rgb)
    steps = _steps(green if grey else rgb)
    stride = -(-max(rgb.shape) // SAMPLE)
    sample = np.ascontiguousarray((green if grey else rgb)[::stride, ::stride])
    middle = sample if grey else sample[..., 1]
    histogram = np.bincount(middle.ravel(), minlength=256) / middle.size
    bright = cv2.threshold(most, 127, 255, cv2.THRESH_BINARY)[1]
    same = _within(steps, 0, 0)
    return Features(
        low=int(cv2.minMaxLoc(least)[0]),
        high=int(cv2.minMaxLoc(most)[1]),
        spread=int(np.diff(np.searchsorted(np.cumsum(histogram), (0.01, 0.99)))[0]),
        coloured=0.0 if grey else _coloured_share(sample),
        dark=_within(most, 0, DARK),
        light=_within(least, LIGHT, 255),
        extremes=1 - _within(green, 1, 254),
        thin=thinness(most),
        thick=cv2.countNonZero(cv2.erode(bright, np.ones((3, 3), np.uint8))) / max(cv2.countNonZero(bright), 1),
        levels=int(np.searchsorted(np.cumsum(np.sort(histogram)[::-1]), 0.995)) + 1,
        same=same,
        gentle=_within(steps, 1, 3) / max(1 - same, 1e-9),
        rough=_within(steps, 7, 255),
        unit=0.0 if grey else _unit_share(sample),
        facing=float((sample if grey else sample[..., ::2]).mean() * 2 - 255),
        saturated=0.0 if grey else _saturation(sample),
    )


def classify(f: Features) -> str | None:
    """The kind, None where it is not clear.

    Beside CONDITION_KINDS: "blank" shows nothing, "picture" is a photograph, "colours" is coloured, but not as any kind is.
    """
    if f.high - f.low <= BLANK:
        return "blank"
    if f.coloured > 0.1:
        return _coloured(f)
    if f.extremes >= 0.999:
        return _binary(f)
    if f.thin >= 0.5 and f.dark >= 0.15:
        return "softedge"
    if f.levels <= 32 and f.same >= 0.95 and f.gentle < 0.5:
        return "segmentation"
    if f.rough <= 0.12 and f.thin <= 0.4:
        return "depth"
    return "picture" if f.rough >= 0.2 and f.dark < 0.1 and f.thin < 0.5 else None


def _binary(f: Features) -> str | None:
    if f.thick <= 0.1:
        return "canny"
    if f.thin >= 0.3:
        return "scribble"
    return "segmentation" if f.thin <= 0.15 else None


def _coloured(f: Features) -> str:
    if f.dark >= 0.5 and f.thin >= 0.6 and f.saturated >= 0.7:
        return "pose"
    if f.same >= 0.85 and f.gentle < 0.3:
        return "segmentation"
    if f.unit >= 0.8 and f.dark < 0.2:
        return "normal"
    return "picture" if f.same < 0.5 and f.rough >= 0.15 else "colours"


def inverted_kind(rgb: Pixels, f: Features, grey: bool = False) -> str | None:
    """The kind of lines that a map shows dark on light, or "normal" where normals face away; else None.

    Of depth and segmentation the polarity cannot be seen in the map alone.
    """
    if f.facing < -AWAY and classify(f) == "normal":
        return "normal"
    # texture leaves soft edges little background
    soft = f.light >= 0.15 and f.light > 3 * f.dark and (f.rough >= 0.12 or f.levels <= 4)
    if f.light < 0.6 and not soft:
        return None
    kind = classify(measure_features(255 - rgb, grey))
    return kind if kind in LINES and (f.light >= 0.6 or kind == "softedge") else None


def thinness(grey: np.ndarray) -> float:
    """(H, W) uint8 -> share of the brightness above the background (the median) in structures that are thin."""
    scale = min(1.0, SMALL / max(grey.shape))
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    small = cv2.subtract(small, _median(small))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (OPENING, OPENING))
    total = float(small.mean())
    return 1 - float(cv2.morphologyEx(small, cv2.MORPH_OPEN, kernel).mean()) / total if total else 0.0


def _median(grey: np.ndarray) -> float:
    """As numpy's, by counting levels."""
    counts = np.cumsum(cv2.calcHist([grey], [0], None, [256], [0, 256]), dtype=np.float64)
    middle = np.searchsorted(counts, [(grey.size - 1) // 2, grey.size // 2], side="right")
    return float(middle.mean())


def _envelope(rgb: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """The largest and the smallest channel of each pixel."""
    red, green, blue = cv2.split(rgb)
    return cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)


def _within(grey: np.ndarray, low: int, high: int) -> float:
    """(H, W) uint8 -> the share of pixels from `low` to `high`."""
    return float(cv2.countNonZero(cv2.inRange(grey, low, high)) / grey.size)


def _steps(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 -> (H, W - 1) uint8: the largest difference of a channel to the right neighbour."""
    if pixels.shape[1] < 2:
        return np.zeros((1, 1), np.uint8)
    steps = cv2.absdiff(pixels[:, 1:], pixels[:, :-1])
    return steps if steps.ndim == 2 else _envelope(steps)[0]


def _coloured_share(sample: np.ndarray) -> float:
    most, least = _envelope(sample)
    shown = most > 40
    return float(((most - least)[shown] > 40).mean()) if shown.any() else 0.0


def _unit_share(sample: np.ndarray) -> float:
    length = np.linalg.norm(sample.astype(np.float32) / 127.5 - 1, axis=-1)
    return float(np.mean((length > 0.85) & (length < 1.15)))


def _saturation(sample: np.ndarray) -> float:
    most, least = _envelope(sample)
    shown = most > 40
    return float(((most - least)[shown] / most[shown]).mean()) if shown.any() else 0.0
