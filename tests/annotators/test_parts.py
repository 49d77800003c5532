"""mask:OWNER/MODEL of Segment Anything: the masks of transformers' own pipeline, painted."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import tiny_models
from support.aux_models import batch, picture

from condprep import load_annotator
from condprep.annotators.kinds import kind_of_annotator
from condprep.annotators.segmentation.parts import paint
from condprep.errors import WeightsError
from condprep.weights.find import Weights

KEYS = [sha256(bytes([n])).hexdigest() for n in range(3)]


def load(folder: Path) -> Any:
    return load_annotator(f"mask:{folder}", weights=Weights(offline=True, say=lambda _: None))


@pytest.mark.slow
def test_the_parts_are_those_of_the_pipeline(tmp_path: Path) -> None:
    """Each part has one colour where no smaller part lies on it, and the rest is black; whatever else is in the batch, and at 1 x 1."""
    from transformers import pipeline

    folder = tiny_models.sam2(tmp_path)
    annotator, theirs = load(folder), pipeline("mask-generation", model=str(folder), device="cpu")
    rgb = [picture(20, 28), np.ascontiguousarray(picture(20, 28)[:, ::-1])]
    maps = annotator(batch(*rgb), KEYS[:2]).maps.permute(0, 2, 3, 1).numpy()
    for one, found in zip(rgb, maps):
        masks = sorted((np.asarray(mask) for mask in theirs(Image.fromarray(one))["masks"]), key=np.count_nonzero)
        assert masks, "nothing would equal anything"
        covered = np.zeros((20, 28), bool)
        colours = []
        for mask in masks:
            seen = found[mask & ~covered]
            assert len(np.unique(seen, axis=0)) <= 1
            colours += [tuple(seen[0])] if len(seen) else []
            covered |= mask
        assert len(set(colours)) == len(colours)
        assert not found[~covered].any()
    assert annotator(batch(picture(1, 1)), KEYS[:1]).maps.shape == (1, 3, 1, 1)
    assert not annotator.binary
    assert kind_of_annotator("mask", str(folder)) == "segmentation"
    assert next(iter(annotator.provenance["weights"])) == "model.safetensors"


def test_a_picture_in_which_nothing_is_found_is_black(tmp_path: Path) -> None:
    """A model that believes in none of its masks is no error."""
    assert not load(tiny_models.sam2(tmp_path, sure=False))(batch(picture(40, 30)), KEYS[:1]).maps.any()


def test_small_parts_lie_on_large_ones() -> None:
    """Colours are given from the largest on, so that a part within another one is seen."""
    large, small = np.zeros((2, 8, 8), bool)
    large[1:7, 1:7] = True
    small[3:5, 3:5] = True
    painted = paint([small, large], 8, 8)
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) == 3
    assert tuple(painted[1, 1]) == (128, 0, 0)
    assert tuple(painted[3, 3]) == (0, 128, 0)
    assert not painted[0, 0].any()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """Its weights are cut off: that is said, with what such a model needs."""
    weights = tiny_models.sam2(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"is no Segment Anything model of transformers: it needs config\.json"):
        load(tmp_path)
