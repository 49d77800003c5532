"""Camera pictures, which are decoded at a smaller scale: the same rows as from all of their pixels, nearly."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from PIL import Image
from skimage import data

import condprep
from condprep.annotation.pictures import Annotated
from condprep.images import resize as resizing
from condprep.images.decode import decode
from condprep.images.geometry import Geometry, pad, resize


def jpeg(picture: Image.Image, orientation: int = 1) -> bytes:
    exif, stored = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    picture.save(stored, "JPEG", quality=90, exif=exif)
    return stored.getvalue()


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """1,203 x 837 px, so that libjpeg's last pixels lie partly outside of it."""
    return Image.fromarray(data.coffee()).resize((1203, 837), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("package", ["cykooz", "Pillow"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_dot_stays_where_the_transform_says(orientation: int, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every fit and orientation, a bright square of a picture decoded smaller is where the transform of the full one
    puts it, to a twentieth of a pixel: the reduced grid moves nothing, whichever package resizes."""
    if package == "Pillow":
        monkeypatch.setattr(resizing, "cykooz_resizer", None)
    shown = np.zeros((837, 1203, 3), np.uint8)
    shown[397:445, 580:642] = 255
    encoded = jpeg(Image.fromarray(shown), orientation)
    full = decode(encoded).rgb[..., 0].astype(float)
    centre = [(full * axis).sum() / full.sum() + 0.5 for axis in np.mgrid[: full.shape[0], : full.shape[1]]]
    for fit in ("crop", "bucket", "pad"):
        geometry = Geometry(64, fit)  # type: ignore[arg-type]
        picture = decode(encoded, reduction=geometry.reduction)
        placement = geometry.place(picture.size)
        stored = pad(resize(picture.rgb, placement, picture.grid), placement)[..., 0].astype(float)
        ys, xs = np.mgrid[: stored.shape[0], : stored.shape[1]] + 0.5
        sx, _, tx, _, sy, ty = placement.transform
        assert picture.grid.side == (8 if fit == "pad" else 4)
        assert (stored * xs).sum() / stored.sum() == pytest.approx(sx * centre[1] + tx, abs=0.05)
        assert (stored * ys).sum() / stored.sum() == pytest.approx(sy * centre[0] + ty, abs=0.05)


@pytest.mark.parametrize("fit", ["crop", "bucket", "pad"])
def test_rows_of_camera_pictures_are_those_of_all_their_pixels(
    fit: str, tmp_path: Path, photograph: Image.Image
) -> None:
    """Decoded smaller by default, and recorded; the row differs from the exact one by half a level on average at most,
    its transform not at all, and what annotates like the dataset makes its very map of the source."""
    (tmp_path / "raw").mkdir()
    for number in (1, 6):
        (tmp_path / "raw" / f"{number}.jpg").write_bytes(jpeg(photograph, number))
    rows = {}
    for how in ("auto", "exact"):
        out = tmp_path / how
        condprep.build(tmp_path / "raw", out, "canny", resolution=64, fit=fit, image_format="png", decode=how)
        rows[how] = list(load_from_disk(str(out))["train"])
        made = condprep.annotate([tmp_path / "raw" / "1.jpg", tmp_path / "raw" / "6.jpg"], like=out)
        for row, one in zip(rows[how], made):
            assert isinstance(one, Annotated)
            np.testing.assert_array_equal(one.image, row["image"])
            np.testing.assert_array_equal(one.maps["canny"], row["conditioning_image"].convert("L"))
    for auto, exact in zip(rows["auto"], rows["exact"]):
        assert auto["transform"] == exact["transform"]
        difference = np.abs(np.asarray(auto["image"], int) - np.asarray(exact["image"], int))
        assert 0 < difference.mean() <= 0.5
