"""Which pictures look alike: a hash of 64 bits of every picture and of its crops, pairs of near hashes, a second look.

The hash has the signs of the 64 lowest frequencies of a thumbnail (its cosine transform), which brightness, contrast and
JPEG leave as they are. A crop moves them, so each picture has the hashes of 16 crops of itself, too, and a picture that
is a crop of another is found by its own hash among those. The second look registers the two thumbnails, to a fraction of
their pixels, and compares the detail.

Thumbnails are (N, SIDE, SIDE) uint8 grey, the whole picture whatever its shape. Hashes are uint64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

Thumbnails = NDArray[np.uint8]  # (N, SIDE, SIDE)
Hashes = NDArray[np.uint64]  # (N, CROPS); the first is that of the whole picture
RowPairs = NDArray[np.int64]  # (M, 3): a picture, one that looks like it or a crop of it, and which crop

SIDE = 32
FREQUENCIES = 12  # of each direction; the 64 lowest of the plane lie within
TRIMS = (0.0, 0.04)  # of a side, at each of its ends: with 0.02 of slack, whatever a crop of 5 % can do
CROPS = len(TRIMS) ** 4
RADIUS = (
    9  # bits by which the hashes of the same picture differ at most; those of different ones seldom by less than 14
)
# Pictures from which on: (bits, of which so many may differ) of the bands by which hashes are sorted. Two hashes that differ
# by more than that in every band differ by more than RADIUS bits. Wider bands have fewer hashes of each value to compare,
# and more values to go through; among a few pictures all are compared
BANDS = {
    0: ((0, 9),),
    8_000: ((13, 1), (13, 1), (13, 1), (13, 1), (12, 1)),
    300_000: ((16, 2), (16, 2), (16, 1), (16, 1)),
}
FIRST = 32  # lookalikes of a picture that are told from one place; of a thousand copies no million pairs
CHUNK = 1 << 16  # pairs of hashes compared at a time: what the processor's cache holds
LOOKS = 512  # pairs looked at at a time

STEPS = 6  # of the registration
SAME_DETAIL = 0.7  # correlation of the detail: of the same picture 0.75 to 1, of another one up to 0.6
KEPT = 0.85  # of each side that a crop keeps at least
OUTSIDE = 0.06  # of each side that it may lie outside: two crops of one picture
PLAIN = 3.0  # levels: the standard deviation of a thumbnail in which there is nothing to compare


def grey_thumbnail(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) uint8 -> (SIDE, SIDE) uint8."""
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def hashes(thumbnails: Thumbnails, rows: NDArray[np.int64] | None = None) -> Hashes:
    """The hashes of each picture and its crops; rows: of these pictures alone."""
    signs, chosen = _transforms()
    weights = np.uint64(1) << np.arange(64, dtype=np.uint64)
    rows = np.arange(len(thumbnails)) if rows is None else rows
    found = np.empty((len(rows), CROPS), np.uint64)
    for start in range(0, len(rows), LOOKS):
        part = thumbnails[rows[start : start + LOOKS]].astype(np.float32)
        waves = signs @ (part - part.mean((1, 2), keepdims=True)) @ signs.T
        crops = waves.reshape(len(part), len(TRIMS) ** 2, FREQUENCIES, len(TRIMS) ** 2, FREQUENCIES)
        bits = crops.transpose(0, 1, 3, 2, 4).reshape(len(part), CROPS, -1)[..., chosen] > 0
        found[start : start + LOOKS] = bits @ weights
    return found


@cache
def _transforms() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The cosines that take the side of a thumbnail to the frequencies of each of its crops, and the frequencies used."""
    fine = 8  # points a pixel: a crop cuts pixels
    at = (np.arange(SIDE * fine) + 0.5) / (SIDE * fine)
    waves = []
    for before, after in _ends():
        inside = (at - before) / (1 - before - after)
        cosines = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * inside) * ((inside >= 0) & (inside < 1))
        waves.append(cosines.reshape(FREQUENCIES, SIDE, fine).mean(-1))
    plane = np.add.outer(np.arange(FREQUENCIES) ** 2, np.arange(FREQUENCIES) ** 2).ravel()
    return np.concatenate(waves).astype(np.float32), np.argsort(plane, kind="stable")[1:65]


def _ends() -> list[tuple[float, float]]:
    """What a crop may take away at both ends of a side."""
    return [(before, after) for before in TRIMS for after in TRIMS]


def near_pairs(
    codes: Hashes, radius: int = RADIUS, first: int = FIRST, bands: Sequence[tuple[int, int]] | None = None
) -> RowPairs:
    """Every pair of pictures of which one's hash is within `radius` bits of the other's or of one of its crops'.

    Exactly those, but for pictures with more than `first` lookalikes in one place, of which the first are told. The
    hashes are sorted by a band of their bits; only those are compared that agree in it, or all but (multi-index hashing:
    Norouzi, Punjani, Fleet, Fast search in Hamming space, 2012). bands: some of BANDS; else the fastest.
    """
    if radius > RADIUS:
        raise ValueError(f"radius {radius}: the bands find pairs up to {RADIUS} bits apart")
    found, shift = [np.empty((0, 3), np.int64)], 0
    for width, reach in bands or BANDS[max(least for least in BANDS if least <= len(codes))]:
        found += [_pairs(codes, *places, radius, first) for places in _places(codes, shift, width, reach)]
        shift += width
        found = [_distinct(codes, np.concatenate(found))]
    return found[0]


def _places(codes: Hashes, shift: int, width: int, reach: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each value of a band: positions in `codes.ravel()` of that value, and pictures whose own hash is nearly that."""
    of_crops, of_pictures = (_sorted_band(hashes, shift, width) for hashes in (codes.ravel(), codes[:, 0]))
    bits = [1 << bit for bit in range(width)]
    flips = np.array([sum(some) for count in range(reach + 1) for some in combinations(bits, count)])
    for value in np.flatnonzero(np.diff(of_crops[1])).tolist():
        asking = _members(of_pictures, value ^ flips)
        if len(asking):
            yield _members(of_crops, np.array([value])), asking


Band = tuple[NDArray[np.int64], NDArray[np.int64]]


def _sorted_band(hashes: Hashes, shift: int, width: int) -> Band:
    """Positions by the value of a band, and where each value begins."""
    band = ((hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)).astype(np.uint16)
    starts = np.concatenate([[0], np.cumsum(np.bincount(band, minlength=1 << width))])
    return np.argsort(band, kind="stable"), starts


def _members(band: Band, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of one value after the other."""
    order, starts = band
    counts = starts[values + 1] - starts[values]
    ends = np.cumsum(counts)
    found: NDArray[np.int64] = order[np.arange(ends[-1]) + np.repeat(starts[values] + counts - ends, counts)]
    return found


def _pairs(codes: Hashes, members: NDArray[np.int64], asking: NDArray[np.int64], radius: int, first: int) -> RowPairs:
    """Those of two places that are near, a part of the pictures that ask at a time."""
    theirs, own = codes.ravel()[members], codes[asking, 0]
    found = []
    for start in range(0, len(asking), some := max(1, CHUNK // len(members))):
        near = np.flatnonzero(np.bitwise_count(own[start : start + some, None] ^ theirs) <= radius)
        if len(near) > first * some:  # none are lost but the last: a picture is near itself, too
            near = near[_first_of_each(near // len(members), first + CROPS)]
        found.append(near + start * len(members))
    asks, at = np.divmod(np.concatenate(found), len(members))
    pairs = np.stack([members[at] // CROPS, asking[asks], members[at] % CROPS], 1)
    others = pairs[:, 0] != pairs[:, 1]
    told: RowPairs = pairs[others][_first_of_each(asks[others], first)]
    return told


def _first_of_each(asks: NDArray[np.int64], first: int) -> NDArray[np.bool_]:
    """The first answers to each that asks, of answers in the order of those that ask."""
    return np.arange(len(asks)) - np.searchsorted(asks, asks) < first


def _distinct(codes: Hashes, pairs: RowPairs) -> RowPairs:
    """Each pair once, with the crop that is nearest: the second look begins there."""
    apart = np.bitwise_count(codes[pairs[:, 0], pairs[:, 2]] ^ codes[pairs[:, 1], 0])
    pairs = pairs[np.lexsort((pairs[:, 2], apart, pairs[:, 1], pairs[:, 0]))]
    _, kept = np.unique(pairs[:, :2], axis=0, return_index=True)
    return pairs[kept]


def same_picture(thumbnails: Thumbnails, pairs: RowPairs) -> NDArray[np.bool_]:
    """The second look: which pairs show the same picture, one of them cropped by up to 15 % of a side."""
    same = [_look(thumbnails, pairs[start : start + LOOKS]) for start in range(0, len(pairs), LOOKS)]
    return np.concatenate(same) if same else np.zeros(0, np.bool_)


def comparable(thumbnails: Thumbnails) -> NDArray[np.bool_]:
    """Which pictures show enough to be compared."""
    parts = range(0, len(thumbnails), LOOKS)
    spread = [thumbnails[start : start + LOOKS].std((1, 2)) for start in parts]
    return np.concatenate(spread) >= PLAIN if spread else np.zeros(0, np.bool_)


def _look(thumbnails: Thumbnails, pairs: RowPairs) -> NDArray[np.bool_]:
    ends = np.array([(*vertical, *horizontal) for vertical in _ends() for horizontal in _ends()])[pairs[:, 2]]
    whole, crop = (thumbnails[pairs[:, side]].astype(np.float32) for side in (0, 1))
    start = np.stack([1 - ends[:, 0] - ends[:, 1], ends[:, 0], 1 - ends[:, 2] - ends[:, 3], ends[:, 2]], 1)
    place = register(whole, crop, start)
    scales, offsets = place[:, ::2], place[:, 1::2]
    inside = (scales >= KEPT) & (offsets >= -OUTSIDE) & (scales + offsets <= 1 + OUTSIDE)
    return np.asarray(inside.all(1) & (detail_correlation(cut(whole, place), crop) >= SAME_DETAIL))


Place = NDArray[np.float64]  # (N, 4): scale and offset down, scale and offset across, in sides of the whole


def register(whole: NDArray[np.float32], crop: NDArray[np.float32], start: Place) -> Place:
    """Where each crop lies in its whole, by Gauss-Newton on the differences of their levels, after gain and offset."""
    grid, aim, place = _grid(), _normed(crop), start
    for _ in range(STEPS):
        seen = _normed(cut(whole, place))
        down, across = (np.gradient(seen, axis=axis) * SIDE / place[:, 2 * axis - 2, None, None] for axis in (1, 2))
        slopes = [down * grid[:, None], down, across * grid, across, seen, np.ones_like(seen)]
        jacobian = np.stack(slopes, -1).reshape(len(seen), -1, len(slopes))
        error = (aim - seen).reshape(len(seen), -1, 1)
        turned = jacobian.transpose(0, 2, 1)
        step = np.linalg.solve(turned @ jacobian + np.eye(len(slopes)), turned @ error)[:, :4, 0]
        place = place + np.clip(step, -0.05, 0.05)
    return place


def cut(whole: NDArray[np.float32], place: Place) -> NDArray[np.float32]:
    """The part of each whole at its place, (N, SIDE, SIDE), by linear interpolation."""
    down, across = _weights(place[:, 0], place[:, 1]), _weights(place[:, 2], place[:, 3])
    return np.asarray(down @ whole @ across.transpose(0, 2, 1), np.float32)


def _weights(scale: NDArray[np.float64], offset: NDArray[np.float64]) -> NDArray[np.float32]:
    """(N, SIDE, SIDE): what each pixel along a side takes from the pixels of the whole; its border goes on for ever."""
    at = np.clip((offset[:, None] + scale[:, None] * _grid()) * SIDE - 0.5, 0, SIDE - 1)
    distance = np.abs(at[..., None] - np.arange(SIDE))
    return np.asarray(np.maximum(0, 1 - distance), np.float32)


def _grid() -> NDArray[np.float64]:
    """The centres of the pixels, in sides."""
    return (np.arange(SIDE) + 0.5) / SIDE


def _normed(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = pictures - pictures.mean((1, 2), keepdims=True)
    return np.asarray(centred / np.maximum(centred.std((1, 2), keepdims=True), 1e-6))


def detail_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) how alike the steps between neighbouring pixels are, -1..1: unlike levels, those differ between any two skies."""
    details = [np.concatenate([np.diff(x, axis=axis).reshape(len(x), -1) for axis in (1, 2)], 1) for x in (a, b)]
    lengths = np.prod([np.linalg.norm(detail, axis=1) for detail in details], axis=0)
    return np.asarray((details[0] * details[1]).sum(1) / np.maximum(lengths, 1e-6))
