"""A map's parts say how it is scaled, to half a percent, where it fits as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from support.drawings import canny, enlarged, filled, jpeg, photo, shifted, soft
from support.thorough import slow_ones

from condprep.verification.alignment.comparison import compare_picture
from condprep.verification.alignment.multiscale import MultiscalePair
from condprep.verification.alignment.registration import lines


@pytest.mark.parametrize("scale", [0.98, 1.02])
@pytest.mark.parametrize("name", ["chelsea", *slow_ones(["astronaut", "camera", "coffee", "rocket"])])
def test_two_percent_are_told_from_the_picture_alone(name: str, scale: float) -> None:
    """A map that fits as it is in the middle, and is off by 3 px at the border, is scaled by so much, whatever its kind."""
    picture = photo(name, 320, 320)
    for annotate in (canny, soft, filled):
        found = compare_picture(jpeg(picture), enlarged(annotate(picture), scale), "unclear")
        assert (found.verdict, found.scale) == ("scaled", pytest.approx(scale, abs=0.006)), found


@pytest.mark.parametrize("moved", [(0, 0), (3, -2)])
@pytest.mark.parametrize("scale", [0.96, 0.98, 1.0, 1.02, 1.04])
def test_blocks_tell_the_scale(scale: float, moved: tuple[int, int]) -> None:
    """To half a percent, on pictures that are no squares too, and shifted by a little; of a right map they tell nothing."""
    picture = photo("coffee", 192, 272)
    view = MultiscalePair(picture, shifted(enlarged(canny(picture), scale), *moved), lines).at(256)
    assert view.stretch.scale == pytest.approx(scale, abs=0.0051)
    assert view.stretch.gain > 0.5 if scale != 1 else view.stretch.gain == 0


def test_blocks_of_what_is_small_flat_or_far_tell_nothing() -> None:
    """A map of one block, one without edges, and one that lies far off have no scale but 1."""
    picture = photo("coffee", 256, 256)
    pairs = [
        (picture[:48, :48], canny(picture)[:48, :48]),
        (picture, np.zeros((256, 256), np.uint8)),
        (picture, shifted(canny(picture), 20, 0)),
    ]
    for pictured, stored in pairs:
        assert MultiscalePair(pictured, stored, lines).at(256).stretch.gain == 0
