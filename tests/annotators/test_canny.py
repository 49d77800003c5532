"""Canny: parity with the reference, whatever the picture; random thresholds that are reproducible and recorded."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from support.thorough import share

from condprep import load_annotator
from condprep.annotators.canny import canny, random_thresholds
from condprep.annotators.protocol import Filter
from condprep.errors import AnnotatorError


def batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return cv2.resize(data.astronaut(), (512, 384), interpolation=cv2.INTER_AREA)


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**32 - 1),
    low=st.integers(0, 300), extra=st.integers(0, 300), levels=st.sampled_from([2, 5, 256]),
)  # fmt: skip
@settings(max_examples=share(300), deadline=None)
def test_the_fast_path_is_opencv_byte_for_byte(
    height: int, width: int, seed: int, low: int, extra: int, levels: int
) -> None:
    """canny(x) == cv2.Canny(x) for any size from 1 x 1, any thresholds, and pictures full of equal gradients."""
    levels_of = np.random.default_rng(seed).integers(0, levels, (height, width, 3))
    rgb = (levels_of * (255 // (levels - 1))).astype(np.uint8)
    np.testing.assert_array_equal(canny(rgb, low, low + extra), cv2.Canny(rgb, low, low + extra))


def test_equals_controlnet_aux_on_a_photograph(photo: np.ndarray) -> None:
    """At sides that are multiples of 64 the map is byte for byte CannyDetector's."""
    from controlnet_aux.canny import CannyDetector

    reference = CannyDetector()(photo, detect_resolution=384, image_resolution=384, output_type="np")
    ours = load_annotator("canny")(batch(photo), ["00"]).maps[0, 0].numpy()
    np.testing.assert_array_equal(ours, reference[..., 0])
    assert 0.02 < (ours > 0).mean() < 0.3


def test_parameters_reach_the_detector(photo: np.ndarray) -> None:
    """--set canny.low/high change the map as cv2.Canny's own thresholds do, also when given as text."""
    maps = load_annotator("canny", params={"low": "20", "high": 60})(batch(photo), ["00"]).maps
    np.testing.assert_array_equal(maps[0, 0].numpy(), cv2.Canny(photo, 20, 60))


def test_random_thresholds_belong_to_the_key_not_to_the_batch(photo: np.ndarray) -> None:
    """A picture's random thresholds depend on its key alone, are recorded, and reproduce its map."""
    annotate = load_annotator("canny:random")
    keys = [f"{i:064x}" for i in range(8)]
    together = annotate(batch(*[photo] * 8), keys)
    for i, key in enumerate(keys):
        low, high = together.columns["canny_thresholds"][i]
        assert (low, high) == random_thresholds(key)
        np.testing.assert_array_equal(together.maps[i, 0].numpy(), cv2.Canny(photo, low, high))


def test_random_thresholds_cover_their_range() -> None:
    """Over many keys both thresholds reach close to 1 and 255, in order, and vary."""
    drawn = np.array([random_thresholds(f"{i:064x}") for i in range(2000)])
    assert (drawn[:, 0] <= drawn[:, 1]).all()
    assert drawn.min() >= 1
    assert drawn.max() <= 255
    assert drawn[:, 0].min() < 5
    assert drawn[:, 1].max() > 250
    assert abs(drawn.mean() - 128) < 4


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("cany", {}, "canny"),
        ("canny:rnd", {}, "random"),
        ("canny", {"lo": 1}, "low"),
        ("canny", {"low": "many"}, "canny.low = 'many'"),
        ("canny", {"low": -1}, "canny.low = -1"),
        ("canny", {"low": 300}, "low = 300 is above high = 200"),
        ("canny:random", {"low": 3}, "leave them out"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(name: str, params: dict[str, object], says: str) -> None:
    """Unknown names get the nearest one; wrong values are quoted with their key."""
    with pytest.raises(AnnotatorError, match=says):
        load_annotator(name, params=params)


def test_a_picture_alone_gives_the_same_as_in_a_batch(photo: np.ndarray) -> None:
    """`picture`, which builds call, gives the maps and columns of `__call__`, for fixed and for drawn thresholds."""
    rgb = np.stack([photo, photo[:, ::-1]])
    for name in ("canny", "canny:random"):
        annotator = load_annotator(name)
        assert isinstance(annotator, Filter)
        maps = annotator(torch.from_numpy(rgb).permute(0, 3, 1, 2), ["a1", "b2"])
        for number, key in enumerate(("a1", "b2")):
            edges, further = annotator.picture(rgb[number], key)
            assert np.array_equal(edges, maps.maps[number, 0].numpy())
            assert further == {column: values[number] for column, values in maps.columns.items()}
