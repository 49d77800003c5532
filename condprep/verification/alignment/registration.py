"""How one picture lies in another when they show the same scene in different ways: a photograph and its edges, say.

What a photograph, its edges, its depth and its segmentation have in common is where edges are and along which line they
run, not how strong they are nor which side is brighter. So each picture becomes a complex field (H, W): the direction of
the gradient with its angle doubled, which is the same for a step up and a step down, times a strength. Two fields are
compared at all shifts at once by an FFT cross-correlation, half way to phase correlation (the cross spectrum is divided
by the root of its magnitude): that narrows the peak of pictures that match, and spreads the chance resemblance of those
that do not. The root mean square over all shifts is then the noise, and the unit of the scores: different scenes score
what the largest of so many Gaussian numbers would, 3 at a given shift and 4 to 7 anywhere; the same scene 8 to 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from condprep.images.decode import Pixels

Field = NDArray[np.complex64]  # (H, W)
Tensor = tuple[NDArray[np.float32], NDArray[np.float32]]  # (H, W) each

BORDER = 4  # pixels at each side, where a gradient is that of the frame
ROUNDING = 1e-6  # of the highest score: what float32 leaves of equal ones
NOISE = 8.0  # of a 3 x 3 Sobel gradient, which is 8 a grey level and pixel: less is rounding or compression


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight ways to lay a rectangle onto itself: mirrored left to right first, then turned anticlockwise."""

    name: str  # as in "condition is ..."; "" for the identity
    mirrored: bool = False
    quarters: int = 0

    def undo(self, edges: Field) -> Field:
        """The field of the picture as it was before it was mirrored and turned so. (H, W) -> (H, W) or (W, H).

        Directions turn with the picture: a quarter turn is half a turn of the doubled angle, a mirror its negative.
        """
        upright = np.rot90(edges, -self.quarters) * np.float32((-1) ** self.quarters)
        return np.ascontiguousarray(np.conj(upright[:, ::-1]) if self.mirrored else upright)


UPRIGHT = Orientation("")
FLIPS = (
    Orientation("flipped horizontally", mirrored=True),
    Orientation("flipped vertically", mirrored=True, quarters=2),
    Orientation("turned by 180 degrees", quarters=2),
)
TURNS = (
    Orientation("turned by 90 degrees anticlockwise", quarters=1),
    Orientation("turned by 90 degrees clockwise", quarters=3),
    Orientation("flipped along its diagonal", mirrored=True, quarters=1),
    Orientation("flipped along its other diagonal", mirrored=True, quarters=3),
)


class Peak(NamedTuple):
    """The best shift that a correlation found: the second picture is the first one moved by (dx, dy) pixels."""

    score: float
    dx: float  # to the right
    dy: float  # down


def steps(picture: Pixels) -> Field:
    """The field of a picture whose edges are steps (photograph, depth, normals, segmentation, a drawing). (H, W[, C]).

    Its strength is the root of the gradient's, so that one strong edge does not decide alone. Channels add up as in the
    structure tensor: colours that differ in hue alone also make an edge.
    """
    return steps_of(tensor(picture))


def steps_of(gradients: Tensor) -> Field:
    """The same of a picture whose tensor is known."""
    root = np.sqrt(cv2.magnitude(*gradients) + np.float32(NOISE**2))
    return _centred(gradients, 1 / (root * np.sqrt(root)))


def lines(picture: Pixels) -> Field:
    """The field of a map whose edges are lines (Canny, soft edges, scribbles), light on dark or dark on light.

    A line has two steps, one at each side, and a thick one would match at either. Here it has one direction, that of
    both, and its strength is the line itself, strongest in the middle.
    """
    grey = picture if picture.ndim == 2 else picture.max(2)
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1)
    re, im = (cv2.GaussianBlur(part, (0, 0), 1.5) for part in _tensor(smooth))
    ground = np.float32(np.median(grey[::4, ::4]))  # most of a map of lines is ground, so a sixteenth tells it
    return _centred((re, im), np.abs(smooth - ground) / (cv2.magnitude(re, im) + np.float32(NOISE**2)))


def edge_share(gradients: Tensor) -> float:
    """The share of pixels that lie on an edge: a gradient of about 4 grey levels a pixel or more, 0..1."""
    return float((cv2.magnitude(*gradients) > (4 * NOISE) ** 2).mean())


def spectrum(edges: Field, shape: tuple[int, int]) -> Field:
    """The FFT of a field, padded with zeros to `shape`."""
    return np.asarray(fft.fft2(edges, shape), np.complex64)


def whitened(a: Field) -> Field:
    """A spectrum -> the field, so that the plain correlation of two is that of `correlation`, but for the unit."""
    return np.asarray(fft.ifft2(a / (np.sqrt(np.abs(a)) + np.float32(1e-3))), np.complex64)


def correlation(a: Field, b: Field) -> NDArray[np.float32]:
    """Two spectra -> (H, W) float32: how well b, moved back by (dy, dx), matches a, in units of the noise.

    Shifts wrap around: the last row is dy = -1. All zero where one of them has no edges. Of (N, H, W) spectra each is
    compared by itself: small ones are faster together.
    """
    cross = np.conj(a) * b
    cross *= 1 / (np.sqrt(np.sqrt(cross.real**2 + cross.imag**2)) + np.float32(1e-6))
    surface = fft.ifft2(cross).real
    noise = np.sqrt(np.mean(surface**2, (-2, -1), keepdims=True))
    return np.asarray(surface / np.maximum(noise, np.float32(1e-12)), np.float32)


def peak(surface: NDArray[np.float32]) -> Peak:
    """The highest point of a correlation, its place between the pixels by a parabola through it and its neighbours."""
    height, width = surface.shape
    y, x = divmod(int(surface.argmax()), width)
    top = float(surface[y, x])
    right = _vertex(float(surface[y, x - 1]), top, float(surface[y, (x + 1) % width]))
    down = _vertex(float(surface[y - 1, x]), top, float(surface[(y + 1) % height, x]))
    return Peak(top, _signed(x, width) + right, _signed(y, height) + down)


def score_here(surface: NDArray[np.float32], reach: int = 1) -> float:
    """The highest score within `reach` pixels of no shift."""
    window = np.arange(-reach, reach + 1)
    return float(surface[np.ix_(window % surface.shape[0], window % surface.shape[1])].max())


def fast_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """The next larger size at which FFTs are fast."""
    return fft.next_fast_len(shape[0]), fft.next_fast_len(shape[1])


def resized(picture: Pixels, height: int, width: int) -> Pixels:
    """The picture (H, W[, C]) at another size: averaged where it shrinks."""
    if picture.shape[:2] == (height, width):
        return picture
    shrinks = height * width < picture.shape[0] * picture.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)


def unscaled(picture: Pixels, scale: float) -> Pixels:
    """The picture as it was before it was enlarged by `scale` about its centre; what lies outside repeats the border."""
    if scale == 1:
        return picture
    height, width = picture.shape[:2]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.column_stack([np.eye(2) * scale, centre * (1 - scale)])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    scaled = cv2.warpAffine(picture, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(scaled, np.uint8)


def tensor(picture: Pixels) -> Tensor:
    """The squared gradient, gx + i gy squared, as real and imaginary part, summed over the channels, slightly smoothed."""
    return _tensor(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1))


def _tensor(smooth: cv2.typing.MatLike) -> Tensor:
    re, im = np.zeros((2, *smooth.shape[:2]), np.float32)
    for channel in cv2.split(smooth):
        gx, gy = (cv2.Sobel(channel, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
        re += (gx + gy) * (gx - gy)
        cv2.accumulateProduct(gx, gy, im)
    return re, 2 * im


def _centred(parts: Tensor, strength: NDArray[np.float32]) -> Field:
    """The parts times the strength as complex numbers, mean 0 inside and 0 along the border.

    What two pictures share on average says nothing about how they lie.
    """
    centred = np.zeros(strength.shape, np.complex64)
    window = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    if strength[window].size:
        inside = cv2.merge([part[window] * strength[window] for part in parts])
        mean = np.array(cv2.mean(inside)[:2], np.float32).view(np.complex64)
        np.subtract(inside.view(np.complex64)[..., 0], mean, out=centred[window])
    return centred


def _vertex(before: float, top: float, after: float) -> float:
    """Where the parabola through three neighbours has its top, -0.5..0.5 from the middle one, which is the largest.

    Neighbours that differ by no more than float32 rounds in the FFT are equal: which ones it rounds, its version says.
    """
    curvature, slope = 2 * top - before - after, after - before
    return slope / (2 * curvature) if curvature > 0 and abs(slope) > ROUNDING * top else 0.0


def _signed(index: int, length: int) -> int:
    return index - length if index > length // 2 else index
