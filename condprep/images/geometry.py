"""How a picture reaches the size that will be trained: one placement per picture, shared by the picture and its maps.

Annotators look at the placed picture, so a map has its size by construction and is never resampled. Coordinates are
continuous with pixel edges at integers: the centre of source pixel (0, 0) is at x = 0.5, y = 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from condprep.errors import Rejected
from condprep.types import DecodeMode, FitMode

Size = tuple[int, int]  # (height, width), pixels
MULTIPLE = 64  # bucket sides: what controlnet_aux and the U-Nets of Stable Diffusion divide by


@dataclass(frozen=True, slots=True)
class Placement:
    """Source box -> content -> canvas. All numbers are whole pixels, so the transform is exact."""

    box: tuple[int, int, int, int]  # (top, left, height, width) of the source that is kept
    content: Size  # what the box is resized to
    canvas: Size  # the stored size; larger than the content only when padded
    offset: tuple[int, int] = (0, 0)  # (top, left) of the content on the canvas

    @property
    def scale(self) -> tuple[float, float]:
        """(y, x): stored pixels per source pixel."""
        return self.content[0] / self.box[2], self.content[1] / self.box[3]

    @property
    def transform(self) -> list[float]:
        """[sx, 0, tx, 0, sy, ty]: stored x = sx * source x + tx, stored y = sy * source y + ty."""
        (sy, sx), (top, left, _, _) = self.scale, self.box
        return [sx, 0.0, self.offset[1] - left * sx, 0.0, sy, self.offset[0] - top * sy]

    def changes(self, size: Size) -> bool:
        """Whether a picture of this size is altered at all."""
        return not (self.box == (0, 0, *size) and self.content == size == self.canvas)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the pixels of a picture that was decoded smaller lie on the full picture."""

    side: int = 1  # of a decoded pixel: 1, 2, 4 or 8 pixels of the full picture
    origin: tuple[float, float] = (0.0, 0.0)  # (y, x) of the full picture's corner, in decoded pixels


FULL = Grid()


@dataclass(frozen=True, slots=True)
class Geometry:
    """The policy of a dataset. resolution: side of crop and pad, square root of the area of a bucket; pixels.

    crop: the middle square, resized. bucket: the nearest aspect bucket, filled and cropped. pad: the whole picture,
    black around it. keep: the size as it is.

    decode: whether a JPEG that is much larger than what it becomes may be decoded smaller ("auto"), or never ("exact").
    """

    resolution: int = 512
    fit: FitMode = "crop"
    max_upscale: float = 2.0
    decode: DecodeMode = "auto"

    def place(self, size: Size) -> Placement:
        """Where a picture of `size` goes. Raises Rejected when it would be enlarged beyond `max_upscale`."""
        placement = self._place(size)
        scale = max(placement.scale)
        if scale > self.max_upscale:
            reason = f"{size[1]} x {size[0]} px would be enlarged {scale:.2f} x (limit {self.max_upscale:g})"
            raise Rejected("fit", f"too small: {reason}", code="too-small")
        return placement

    def _place(self, size: Size) -> Placement:
        if self.fit == "keep":
            return Placement((0, 0, *size), size, size)
        if self.fit == "pad":
            return _pad(size, self.resolution)
        target = (self.resolution, self.resolution) if self.fit == "crop" else nearest_bucket(size, self.resolution)
        return _cover(size, target)

    def reduction(self, size: Size) -> int:
        """How many times smaller a picture of `size` may be decoded: 1, 2, 4 or 8.

        What is left has at least twice the pixels of the content on each side, so that what decides is still the filter
        of `resize`. docs/decisions/0002 has what it changes.
        """
        return smaller(max(self._place(size).scale)) if self.decode == "auto" else 1


def smaller(scale: float) -> int:
    """The largest of 1, 2, 4 and 8 by which a picture may be decoded smaller that is resized by `scale` in all."""
    return next((side for side in (8, 4, 2) if 2 * side * scale <= 1), 1)


@lru_cache
def buckets(resolution: int) -> tuple[Size, ...]:
    """All buckets: sides multiples of 64 and at least half the resolution, area at most resolution squared.

    For every height the widest that fits and for every width the highest, so the set is symmetric; (512, 512) is one of
    those of 512. Heights ascend.
    """
    area, shortest = resolution**2, max(MULTIPLE, resolution // 2 // MULTIPLE * MULTIPLE)
    sides = range(shortest, area // shortest + 1, MULTIPLE)
    wide = {(side, area // side // MULTIPLE * MULTIPLE) for side in sides}
    both = wide | {(width, height) for height, width in wide}
    return tuple(sorted((h, w) for h, w in both if min(h, w) >= shortest))


@lru_cache(maxsize=65536)
def nearest_bucket(size: Size, resolution: int) -> Size:
    """The bucket nearest in log aspect; the larger one where two are equally near."""
    aspect = math.log(size[1] / size[0])
    return min(buckets(resolution), key=lambda b: (round(abs(math.log(b[1] / b[0]) - aspect), 9), -b[0] * b[1], b))


def _cover(size: Size, target: Size) -> Placement:
    """The largest middle box of the target's aspect, to the pixel, resized to the target."""
    height = min(size[0], max(1, round(size[1] * target[0] / target[1])))
    width = min(size[1], max(1, round(size[0] * target[1] / target[0])))
    return Placement(((size[0] - height) // 2, (size[1] - width) // 2, height, width), target, target)


def _pad(size: Size, side: int) -> Placement:
    """The whole picture with its longer side at `side`, in the middle of a square."""
    scale = side / max(size)
    height, width = (max(1, round(length * scale)) for length in size)
    return Placement((0, 0, *size), (height, width), (side, side), ((side - height) // 2, (side - width) // 2))


def resize(rgb: np.ndarray, placement: Placement, grid: Grid = FULL) -> np.ndarray:
    """Crop and resize: (H, W, 3) uint8 -> (*content, 3) uint8, contiguous. Antialiased bicubic down, Lanczos up.

    grid: of a picture that was decoded smaller; `placement` is of the full one all the same.
    """
    if grid.side > 1:
        return _shrink_decoded_smaller(rgb, placement, grid)
    top, left, height, width = placement.box
    view = rgb[top : top + height, left : left + width]
    if placement.content == (height, width):
        return np.ascontiguousarray(view)
    if max(placement.scale) > 1:
        import cv2

        return np.asarray(cv2.resize(view, placement.content[::-1], interpolation=cv2.INTER_LANCZOS4))
    from condprep.images.resize import shrink

    return shrink(view, placement.content)


def _shrink_decoded_smaller(rgb: np.ndarray, placement: Placement, grid: Grid) -> np.ndarray:
    """The same box, whose edges now fall within pixels."""
    from condprep.images.resize import shrink

    top, left = (edge / grid.side + first for edge, first in zip(placement.box[:2], grid.origin))
    height, width = (side / grid.side for side in placement.box[2:])
    first, last = (math.floor(top), math.floor(left)), (math.ceil(top + height), math.ceil(left + width))
    view = rgb[first[0] : last[0], first[1] : last[1]]
    return shrink(view, placement.content, (top - first[0], left - first[1], height, width))


def pad(pixels: np.ndarray, placement: Placement) -> np.ndarray:
    """Content onto the canvas, black around it: (h, w[, C]) uint8 -> (*canvas[, C]). A picture and its maps alike."""
    if placement.content == placement.canvas:
        return pixels
    canvas = np.zeros((*placement.canvas, *pixels.shape[2:]), np.uint8)
    (top, left), (height, width) = placement.offset, placement.content
    canvas[top : top + height, left : left + width] = pixels
    return canvas
