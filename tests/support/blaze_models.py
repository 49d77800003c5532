"""The real BlazePose models for tests, out of the pinned wheel (fetched once by pip, then cached)."""

from __future__ import annotations

import functools

import pytest

from condprep.annotators.openpose.blaze.annotator import WEIGHTS
from condprep.annotators.openpose.load import OpenposeParams
from condprep.errors import WeightsUnavailable
from condprep.weights.find import WeightFile, Weights


@functools.cache
def _fetched() -> tuple[WeightFile, ...] | str:
    weights = Weights(say=lambda _: None)
    try:
        return tuple(weights.get(name) for name in WEIGHTS)
    except WeightsUnavailable as error:
        return str(error)


def models() -> tuple[WeightFile, ...]:
    """(detector, landmarks); skips the test where they are neither cached nor reachable."""
    found = _fetched()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def parameters(tiles: int = 2) -> OpenposeParams:
    return OpenposeParams(tiles=tiles)
