"""What of a stored pair the annotator of a build saw, which may have padded it afterwards."""

from __future__ import annotations

import numpy as np

from condprep.verification.opened import OpenedPair

BLACK = 16.0  # mean level of a line that is padding: a JPEG smears some of its neighbour into it


def whole(opened: OpenedPair) -> bool:
    """Whether the picture and the map can be decoded."""
    return opened.image.rgb is not None and opened.map is not None


def content(opened: OpenedPair) -> np.ndarray:
    """(h, w, 3) uint8: what the build's annotator saw of the picture, which was padded afterwards."""
    seen = opened.content
    assert seen is not None
    top, left = opened.pair.padding
    return seen[: _end(seen, top), : _end(seen.swapaxes(0, 1), left)]


def _end(lines: np.ndarray, before: int) -> int:
    """How many lines are content: where black was put before them, one may have been put after them as well."""
    return len(lines) - (before > 0 and len(lines) > 1 and float(lines[-1].mean()) < BLACK)


def framed(made: np.ndarray, opened: OpenedPair) -> np.ndarray:
    """The map of the content, black around it as the build padded it."""
    assert opened.image.rgb is not None
    (height, width), (h, w), (top, left) = opened.image.rgb.shape[:2], made.shape[:2], opened.pair.padding
    if (height, width) == (h, w):
        return made
    framed = np.zeros((height, width, *made.shape[2:]), np.uint8)
    framed[top : top + h, left : left + w] = made
    return framed
