"""A pair, opened: both pictures decoded once, and what several groups of checks want to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from condprep.dataset.pairs.base import Pair
from condprep.errors import Rejected
from condprep.images.decode import Header, Pixels, decode, header
from condprep.runtime.retry import retried
from condprep.verification.features import Features, inverted_kind, measure_features

LEAST, MOST, EACH = 256 << 20, 768 << 20, 12 << 20  # bytes of all pairs that are looked at; a larger pair is alone
BYTES_A_PIXEL = 12  # three of its own, and what is measured from them


@dataclass(frozen=True, slots=True)
class Opened:
    """One encoded picture, decoded; `problem` says why it could not be."""

    header: Header | None = None
    rgb: Pixels | None = None  # (H, W, 3) uint8, upright
    problem: str | None = None


@dataclass(frozen=True)
class OpenedPair:
    """What a group measures; what several groups want to know of it is found out once."""

    pair: Pair
    image: Opened
    condition: Opened

    @property
    def grey(self) -> bool:
        """Whether the map is stored with one channel."""
        return self.condition.header is not None and self.condition.header.mode in ("1", "L")

    @property
    def content(self) -> Pixels | None:
        """The picture without the black that a build put around it, (H, W, 3) uint8; None where it cannot be decoded."""
        rgb, (top, left) = self.image.rgb, self.pair.padding
        inner = None if rgb is None else rgb[top : rgb.shape[0] - top, left : rgb.shape[1] - left]
        return rgb if inner is None or not inner.size else inner

    @cached_property
    def features(self) -> Features | None:
        """Of the map; None where it cannot be decoded."""
        rgb = self.condition.rgb
        return None if rgb is None else measure_features(rgb, self.grey)

    @cached_property
    def map(self) -> Pixels | None:
        """The map, (H, W) uint8 where it is grey, else (H, W, 3); None where it cannot be decoded."""
        rgb, found = self.condition.rgb, self.features
        return (
            rgb if rgb is None or found is None or found.coloured else np.asarray(cv2.extractChannel(rgb, 1), np.uint8)
        )

    @cached_property
    def inverted(self) -> str | None:
        """The kind of a map that is inverted."""
        rgb, found = self.condition.rgb, self.features
        return None if rgb is None or found is None else inverted_kind(rgb, found, self.grey)


def open_picture(data: bytes) -> Opened:
    """Decode. What is wrong with the picture is its problem; raises PassingFault where memory is short."""
    try:
        return retried(lambda: Opened(header(data), decode(data).rgb))
    except Rejected as rejected:
        return Opened(problem=rejected.reason)


def open_pair(pair: Pair) -> OpenedPair:
    """Decode both pictures, as `open_picture` does."""
    image, condition = (Opened() if pair.problem else open_picture(data) for data in (pair.image, pair.condition))
    return OpenedPair(pair, image, condition)


def under_way(ahead: int) -> int:
    """Bytes of all pairs that are looked at where so many are ahead of who takes them: many threads need more."""
    return min(max(LEAST, EACH * ahead), MOST)


def memory_of(pair: Pair) -> int:
    """Bytes that a pair takes while it is looked at, about; known before it is decoded."""
    return sum(len(data) + BYTES_A_PIXEL * _pixels(data) for data in (pair.image, pair.condition))


def _pixels(data: bytes) -> int:
    try:
        height, width = header(data).size
    except Rejected:
        return 0
    return height * width
