"""inpaint: the picture with holes that its key draws."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest
from datasets import load_from_disk
from PIL import Image
from support.aux_models import batch, picture

from condprep import build, load_annotator
from condprep.annotators.inpaint import holes
from condprep.errors import AnnotatorError

KEYS = [sha256(bytes([n])).hexdigest() for n in range(64)]


def mask_of(value: dict[str, bytes]) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(value["png"], np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (37, 90), (128, 64)])
def test_the_map_is_the_picture_where_the_mask_is_not(size: tuple[int, int]) -> None:
    """Of any size and in any batch: the picture's own pixels, black where the column's mask is 255."""
    annotator, rgb = load_annotator("inpaint"), picture(*size)
    made = annotator(batch(rgb, rgb, rgb), KEYS[:3])
    for number, value in enumerate(made.columns["inpaint_mask"]):
        mask, alone = mask_of(value), annotator(batch(rgb), KEYS[number : number + 1])
        assert set(np.unique(mask)) <= {0, 255}
        assert np.array_equal(made.maps[number].permute(1, 2, 0), np.where(mask[..., None] == 255, 0, rgb))
        assert alone.columns["inpaint_mask"] == [value]


def test_how_much_is_missing() -> None:
    """Shares from 10 to 90 percent, evenly; as many as are asked for; other holes for other keys, the same for the same."""
    shares = [holes(key, 64, 96, 10, 90).mean() for key in KEYS]
    assert min(shares) >= 0.09
    assert max(shares) <= 0.91
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * (0.8 / 12**0.5) / len(KEYS) ** 0.5)
    assert not np.array_equal(holes(KEYS[0], 64, 96, 50, 50), holes(KEYS[1], 64, 96, 50, 50))
    assert np.array_equal(holes(KEYS[0], 64, 96, 10, 90), holes(KEYS[0], 64, 96, 10, 90))
    assert holes(KEYS[0], 40, 50, 25, 25).sum() == 500
    assert holes(KEYS[0], 40, 50, 100, 100).all()
    assert not holes(KEYS[0], 40, 50, 0, 0).any()


def test_holes_are_holes_and_no_noise() -> None:
    """What is missing hangs together: few borders between what is there and what is not."""
    borders = [np.abs(np.diff(holes(key, 128, 128, 50, 50).astype(int))).mean() for key in KEYS[:16]]
    assert np.mean(borders) < 0.1


def test_a_range_that_is_upside_down_is_refused() -> None:
    """least above most quotes both."""
    with pytest.raises(AnnotatorError, match="least = 60 is above most = 40"):
        load_annotator("inpaint", params={"least": 60, "most": 40})


def test_the_mask_has_the_stored_picture_s_size(tmp_path: Path) -> None:
    """With --fit pad the mask is padded as the map is, and nothing of the border counts as missing."""
    (tmp_path / "raw").mkdir()
    Image.fromarray(picture(100, 60)).save(tmp_path / "raw" / "upright.png")
    build(tmp_path / "raw", tmp_path / "ds", "inpaint", fit="pad", resolution=128, max_upscale=2)
    [row] = load_from_disk(str(tmp_path / "ds"))["train"]
    mask = mask_of(row["inpaint_mask"])
    assert mask.shape == (128, 128)
    assert not mask[:, [0, -1]].any()
    assert not np.asarray(row["conditioning_image"])[mask == 255].any()
