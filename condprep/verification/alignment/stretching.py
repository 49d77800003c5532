"""How a map is scaled about its centre, by how far each part of it lies from its picture.

A map that is enlarged by 3 % lies right in the middle, and 4 pixels off at the border of 256: at no shift does it fit as a
whole, yet well enough as it is. So both are cut into blocks, each of which fits best somewhere near its place, and for every
scale the blocks' correlations are added up where it would put them. What little a block tells, or along one line only, counts
by that much. The fields are whitened as a whole first, so that the blocks add up to the correlation of `registration`.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from condprep.verification.alignment.registration import Field, whitened

BLOCK = 64  # pixels of a side, about: wide enough to resemble nothing but its place, and to move by less than a sixth
SLACK = 4  # pixels by which the whole may be shifted besides
STEP, REACH = 0.005, 0.06  # of the scales that are tried, and the largest difference from 1
SCALES = 1 + STEP * np.arange(-round(REACH / STEP), round(REACH / STEP) + 1)

Blocks = NDArray[np.complex64]  # (rows, columns, H, W): the spectra of a field's blocks


class Stretch(NamedTuple):
    """The scale about the centre at which the blocks of a map fit their places best."""

    scale: float = 1.0
    gain: float = 0.0  # by how much better than unscaled, in units of the noise


def blocks(spectrum: Field, shape: tuple[int, int]) -> Blocks:
    """Of the field of a spectrum, which had `shape` before it was padded."""
    rows, columns = (max(1, round(side / BLOCK)) for side in shape)
    high, wide = shape[0] // rows, shape[1] // columns
    parts = whitened(spectrum)[: rows * high, : columns * wide].reshape(rows, high, columns, wide).swapaxes(1, 2)
    return np.asarray(fft.fft2(parts), np.complex64)


def stretch(picture: Blocks, stored: Blocks) -> Stretch:
    """How the map seems to be scaled."""
    rows, columns, high, wide = picture.shape
    surfaces = fft.ifft2(np.conj(picture) * stored).real
    noise = np.sqrt(np.mean(surfaces**2) * (rows * columns))
    reach = min(SLACK + ceil(REACH * max(rows * high, columns * wide) / 2), (min(high, wide) - 1) // 2)
    near = np.arange(-reach, reach + 1)
    windows = surfaces[..., (near % high)[:, None], near % wide] / max(noise, np.float32(1e-12))
    down, across = _reading(rows, high, reach), _reading(columns, wide, reach)
    moved = down[:, :, None] @ windows @ across[:, None].swapaxes(-1, -2)
    scores = moved.sum((1, 2)).max((1, 2))
    best = int(scores.argmax())
    return Stretch(float(SCALES[best]), float(scores[best] - scores[len(SCALES) // 2]))


@lru_cache(maxsize=64)
def _reading(count: int, side: int, reach: int) -> NDArray[np.float32]:
    """Along one axis, how to read each block's correlation where each scale puts it: between two pixels by both.

    (scales, blocks, 2 SLACK + 1, 2 reach + 1)
    """
    centres = (np.arange(count) - (count - 1) / 2) * side
    places = (SCALES - 1)[:, None, None, None] * centres[:, None, None] + np.arange(-SLACK, SLACK + 1)[:, None]
    return np.asarray(np.maximum(0, 1 - np.abs(places - np.arange(-reach, reach + 1))), np.float32)
