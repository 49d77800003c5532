"""Making pictures smaller."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from skimage import data

from condprep.images import resize as module
from condprep.images.resize import shrink

SIZES = [(64, 64), (200, 123), (399, 511), (1, 1), (3, 300)]


@pytest.fixture(params=["cykooz", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways: with the package, and without it where it has no wheels."""
    if request.param == "torch":
        monkeypatch.setattr(module, "cykooz_resizer", None)
    elif module.cykooz_resizer is None:
        pytest.skip("cykooz.resizer is not installed: it has no wheels for this platform")
    return str(request.param)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_shrinks_as_pillow_does(way: str, name: str, size: tuple[int, int]) -> None:
    """Photographs shrink to Pillow's antialiased bicubic: a quarter of a level apart on average, two levels in 99.5 %."""
    picture = getattr(data, name)()[:400]
    ours = shrink(picture, size).astype(int)
    pillow = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    difference = np.abs(ours - pillow)
    assert ours.shape == (*size, 3)
    assert difference.mean() < 0.25
    assert (difference <= 2).mean() > 0.995


def test_the_memory_layout_does_not_matter(way: str) -> None:
    """A crop that is a view shrinks to the same bytes as its contiguous copy."""
    view = data.astronaut()[10:400, 20:300]
    assert np.array_equal(shrink(view, (100, 90)), shrink(view.copy(), (100, 90)))
