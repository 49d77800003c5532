"""Maps that are the picture itself, less something: details, colours, or a part of it. How do they lie on it?

Such a map needs no edges in common with its picture: its pixels are the picture's, once that is as coarse. They are held
against each other at all shifts at once: an FFT gives the squared differences over the pixels that both show. What counts is
the share of the map's variance that its picture explains: 0.85 to 1 where it is that picture's, below 0.5 where it is another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from condprep.annotators.filters import color, intensity, luminance
from condprep.images.decode import Pixels
from condprep.verification.alignment.comparison import OTHER, Alignment, described
from condprep.verification.alignment.multiscale import Fit, MultiscalePair
from condprep.verification.alignment.registration import UPRIGHT, Orientation, resized, unscaled
from condprep.verification.alignment.search import COARSE_SCALES, SCALING

Planes = NDArray[np.float32]  # (H, W, C)
Spectrum = NDArray[np.complex64]

SIDE, COARSE = 256, 64  # longer sides in pixels at which shifts are measured, and other orientations and scales tried
EXPLAINED = 0.5  # share of a map's variance from which it is that picture's
CLEAR = 0.9  # share from which nothing but a small shift or scaling is thought of
LEFT = 0.6  # how little of what is unexplained another way must leave
REACH = 0.25  # of the sides: how far shifts are looked for
SHOWN = 2.0  # levels, standard deviation of a map below which it shows nothing that could be told
LEAST = 0.4  # share of the map that must lie on the picture wherever it is shifted to
SMALLEST = 16  # pixels of a side below which nothing is compared
FRAME = 64  # part of the side that is left out at each: what comes in where a map was moved is often black
KEPT = 0.05  # share of the pixels that a map must show
WIDEST = 0.25  # of the longer side, standard deviation of the widest blur


@dataclass(frozen=True)
class _View:
    """A picture as coarse as its map, and the map, at one working size."""

    source: Planes
    stored: Planes
    kept: Planes  # (H, W), 1 where the map shows the picture, else 0
    ratio: float  # full pixels in one of these

    def fit(self, orientation: Orientation = UPRIGHT, scale: float = 1.0) -> Fit:
        """The best shift for an orientation and a scale; its score is the share that is explained."""
        surface = self.surface(orientation, scale)
        reach = (surface.shape[0] // 2, surface.shape[1] // 2)
        y, x = np.unravel_index(int(surface.argmax()), surface.shape)
        shift = (x - reach[1] + _vertex(surface[y, :], int(x)), y - reach[0] + _vertex(surface[:, x], int(y)))
        return Fit(float(surface[y, x]), (shift[0] * self.ratio, shift[1] * self.ratio), orientation, scale)

    def surface(self, orientation: Orientation = UPRIGHT, scale: float = 1.0) -> NDArray[np.float32]:
        """What is explained at each shift of at most REACH, (2 dy + 1, 2 dx + 1): 1 - mean squared difference / variance.

        The middle is no shift. A shift that leaves less than LEAST of the map on the picture explains nothing.
        """
        stored, kept = (_upright(_unscaled(one, scale), orientation) for one in (self.stored, self.kept))
        kept = (kept > 0.999).astype(np.float32)
        shown = max(float(kept.sum()), 1.0)
        stored = (stored - self._mean) * kept[..., None]
        squared, sums = _squared(stored), np.einsum("hwc->c", stored)
        variance = float(squared.sum() / shown - (sums**2).sum() / shown**2)
        frame, planes, squares = self._spectra
        mask = self._spectrum(kept)
        total = self._spectrum(squared) * frame + mask * squares
        for channel, plane in enumerate(planes):
            total -= 2 * self._spectrum(stored[..., channel]) * plane
        unexplained, pixels = (self._around(one) for one in (total, mask * frame))
        share = 1 - unexplained / np.maximum(pixels, 1) / max(variance, 1e-6)
        return np.where(pixels >= LEAST * shown, share, -np.inf).astype(np.float32)

    @cached_property
    def _mean(self) -> NDArray[np.float32]:
        return np.asarray(np.einsum("hwc->c", self.source) / self.source[..., 0].size, np.float32)

    @cached_property
    def _spectra(self) -> tuple[Spectrum, list[Spectrum], Spectrum]:
        """Of the frame, of the picture's channels and of their squares' sum, conjugated."""
        centred = self.source - self._mean
        planes = [self._spectrum(centred[..., channel]).conj() for channel in range(centred.shape[2])]
        frame = self._spectrum(np.ones(centred.shape[:2], np.float32)).conj()
        return frame, planes, self._spectrum(_squared(centred)).conj()

    @property
    def _reach(self) -> tuple[int, int]:
        height, width = self.source.shape[:2]
        return int(height * REACH), int(width * REACH)

    @property
    def _shape(self) -> tuple[int, int]:
        """With room for every shift, so that none wraps around."""
        height, width = (side + far for side, far in zip(self.source.shape, self._reach))
        return fft.next_fast_len(height, True), fft.next_fast_len(width, True)

    def _spectrum(self, plane: NDArray[np.float32]) -> Spectrum:
        return np.asarray(fft.rfft2(plane, self._shape), np.complex64)

    def _around(self, spectrum: Spectrum) -> NDArray[np.float32]:
        surface = fft.irfft2(spectrum, self._shape)
        return np.asarray(surface[np.ix_(*(np.arange(-far, far + 1) for far in self._reach))], np.float32)


def compare_pictured(
    picture: Pixels, stored: Pixels, kind: str, made: Pixels | None = None, tolerance: float = 1.5
) -> Alignment:
    """A picture (H, W, 3) uint8 RGB against its map (H, W[, C]) of a kind of condprep.types.PICTURED.

    made: the map that its annotator makes of the picture now; None: how much the map lost is estimated. Tells shifts from
    `tolerance` pixels on (at 512), flips, turns, scales from 2 % on and other pictures' maps. `likeness`, and the scores too,
    are the share of the map that its picture explains.
    """
    if made is not None and made.shape == stored.shape and np.array_equal(made, stored):
        return Alignment("aligned", score=1.0, here=1.0, likeness=1.0)
    pair = MultiscalePair(picture, stored)
    if not pair.alike:
        return Alignment("unknown", "the condition has another shape than the picture")
    if min(picture.shape[:2]) < SMALLEST:
        return Alignment("unknown", "the condition shows too little")
    found: list[Alignment] = []
    for source in _sources(picture, kind, made):
        found.append(_compared(pair, source, kind, made is None, tolerance))
        if found[-1].here >= CLEAR:
            return found[-1]
    return max(found, key=lambda one: one.score)


def _sources(picture: Pixels, kind: str, made: Pixels | None) -> Sequence[Pixels]:
    """What the map may be of: of grey the usual ways, since nobody says which it was."""
    if kind == "inpaint" or (made is None and kind in ("tile", "blur")):
        return [picture]
    if made is not None:
        return [made]
    return [color(picture)] if kind == "color" else [_rec601(picture), luminance(picture, 1.0), intensity(picture, 1.0)]


def _compared(pair: MultiscalePair, source: Pixels, kind: str, estimated: bool, tolerance: float) -> Alignment:
    fine, coarse = (_view(pair, source, kind, side, estimated) for side in (SIDE, COARSE))
    shown = fine.kept > 0
    if shown.mean() < KEPT or fine.stored[shown].std(0).max() < SHOWN:
        return Alignment("unknown", "the condition shows too little")
    return _judge(pair, coarse, fine, tolerance)


def _judge(pair: MultiscalePair, coarse: _View, fine: _View, tolerance: float) -> Alignment:
    """Another way must leave clearly less unexplained than the map as it is, or, of the others, shifted."""
    here = 0.0 if pair.lies else _middle(fine.surface())
    upright, there = (Fit(0.0), 0.0) if pair.lies else (fine.fit(), coarse.fit().score)
    best = max(here, upright.score)
    doubtful = [turned for turned in pair.orientations if _clearer(coarse.fit(turned).score, there)]
    ways = [fine.fit(turned) for turned in doubtful] + ([] if pair.lies else _scaled(coarse, fine, best, there))
    other = max(ways, key=lambda way: way.score, default=upright)
    if other is not upright and _clearer(other.score, best):
        return _moved(pair, other, here)
    if upright.distance >= tolerance and _clearer(upright.score, here):
        return _moved(pair, upright, here)
    if here >= EXPLAINED:
        return Alignment("aligned", score=here, here=here, likeness=here)
    return Alignment("other picture", OTHER, score=best, here=here, likeness=max(here, 0.0))


def _clearer(explained: float, before: float) -> bool:
    return explained >= EXPLAINED and 1 - explained < LEFT * (1 - before)


def _moved(pair: MultiscalePair, fit: Fit, here: float) -> Alignment:
    return replace(described(pair, fit, here), likeness=max(here, 0.0))


def _scaled(coarse: _View, fine: _View, best: float, there: float) -> list[Fit]:
    """The best fit among other scales: near 1, and where the map fits badly as it is, any. there: of the coarse view."""
    scales = (0.97, 1.03) if best >= CLEAR else COARSE_SCALES
    near = max((coarse.fit(scale=scale) for scale in scales), key=lambda fit: fit.score)
    if near.score <= there:
        return []
    finer = max((fine.fit(scale=near.scale + step / 200) for step in range(-5, 6)), key=lambda fit: fit.score)
    return [finer] if abs(finer.scale - 1) >= SCALING else []


def _view(pair: MultiscalePair, source: Pixels, kind: str, side: int, estimated: bool) -> _View:
    height, width = source.shape[:2]
    ratio = max(1.0, max(height, width) / side)
    size = max(1, round(height / ratio)), max(1, round(width / ratio))
    of_map = size[::-1] if pair.lies else size
    stored = resized(pair.stored, *of_map)
    shown = np.ones(of_map, np.float32)
    if kind == "inpaint":
        kept = pair.stored.reshape(*pair.stored.shape[:2], -1).any(2).astype(np.float32)
        shown = np.asarray(cv2.resize(kept, of_map[::-1], interpolation=cv2.INTER_AREA), np.float32)
    colour = stored.ndim == 3 and kind != "gray"
    planes, theirs = _planes(resized(source, *size), colour), _planes(stored, colour)
    if estimated and kind == "gray":
        planes = _with_levels_of(planes, theirs)
    if estimated and kind in ("tile", "blur"):
        planes = _as_coarse(planes, theirs)
    inner = np.zeros(of_map, np.float32)
    border = -(-side // FRAME)
    inner[border:-border, border:-border] = shown[border:-border, border:-border] > 0.999
    return _View(planes, theirs, inner, ratio)


def _rec601(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)


def _planes(pixels: Pixels, colour: bool) -> Planes:
    """(H, W, 3), or (H, W, 1) where one of the two that are compared is grey."""
    grey = _rec601(pixels) if not colour and pixels.ndim == 3 else pixels
    return grey.reshape(*grey.shape[:2], -1).astype(np.float32)


def _with_levels_of(ours: Planes, theirs: Planes) -> Planes:
    """Each level becomes the one that as many pixels of the other lie below: gamma is not known."""
    below, wanted = (
        np.cumsum(np.bincount(one.astype(np.uint8).ravel(), minlength=256)) / one.size for one in (ours, theirs)
    )
    levels = np.interp(below, wanted, np.arange(256)).astype(np.float32)
    return np.asarray(levels[ours.astype(np.uint8)], np.float32)


def _as_coarse(picture: Planes, stored: Planes) -> Planes:
    """The picture blurred until its gradients are as strong as the map's, wherever the map lies. By halves: it costs a quarter."""
    half, wanted = _halved(picture), _strength(_halved(stored))
    low, high = 0.0, WIDEST * max(half.shape)
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if _strength(_blurred(half, middle)) > wanted else (low, middle)
    return _blurred(picture, 2 * low) if low else picture


def _halved(planes: Planes) -> Planes:
    height, width = (max(1, side // 2) for side in planes.shape[:2])
    halved = cv2.resize(planes, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(halved, np.float32).reshape(height, width, -1)


def _blurred(planes: Planes, sigma: float) -> Planes:
    return np.asarray(cv2.GaussianBlur(planes, (0, 0), sigma), np.float32).reshape(planes.shape)


def _strength(planes: Planes) -> float:
    across, down = np.diff(planes, axis=1), np.diff(planes, axis=0)
    return float((across**2).mean() + (down**2).mean())


def _unscaled(planes: Planes, scale: float) -> Planes:
    return np.asarray(unscaled(planes, scale), np.float32).reshape(planes.shape)  # type: ignore[arg-type]


def _upright(planes: Planes, orientation: Orientation) -> Planes:
    """As `Orientation.undo`, of levels instead of directions."""
    upright = np.rot90(planes, -orientation.quarters)
    return np.ascontiguousarray(upright[:, ::-1] if orientation.mirrored else upright)


def _squared(planes: Planes) -> NDArray[np.float32]:
    """Summed over the channels; numpy's own sum over an axis of three takes most of the time."""
    return np.asarray(np.einsum("hwc,hwc->hw", planes, planes), np.float32)


def _middle(surface: NDArray[np.float32]) -> float:
    return float(surface[surface.shape[0] // 2, surface.shape[1] // 2])


def _vertex(line: NDArray[np.float32], at: int) -> float:
    """Where between the pixels a parabola through the highest and its neighbours has its top, -0.5..0.5."""
    if not 0 < at < len(line) - 1 or not np.isfinite(line[at - 1 : at + 2]).all():
        return 0.0
    before, top, after = (float(value) for value in line[at - 1 : at + 2])
    curvature = 2 * top - before - after
    return (after - before) / (2 * curvature) if curvature > 1e-7 else 0.0
