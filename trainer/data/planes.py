"""Conditions in as few planes as hold them: grey maps are kept as one plane each. Of K kinds the maps lie behind each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

GREY = ("canny", "scribble", "softedge", "lineart", "depth", "gray")  # kinds whose maps are grey


def fewest_planes(conditions: Tensor) -> Tensor:
    """(..., 3 K, H, W) -> (..., K, H, W) where all are grey, else as they are."""
    first = conditions[..., ::3, :, :]
    return first if all(conditions[..., n::3, :, :].equal(first) for n in (1, 2)) else conditions


def all_planes(stored: np.ndarray, planes: int) -> np.ndarray:
    """(P, H, W) -> (planes, H, W); of one plane it is a view."""
    if len(stored) == 1:
        return np.broadcast_to(stored, (planes, *stored.shape[1:]))
    return stored if len(stored) == planes else np.repeat(stored, planes // len(stored), axis=0)


def expected_planes(kinds: Sequence[str | None]) -> int:
    """That maps of these kinds are kept in."""
    return len(kinds) * (1 if all(kind in GREY for kind in kinds) else 3)
