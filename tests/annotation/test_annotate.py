"""condprep.annotate: maps of any kind of picture, in order, and exactly those of a dataset with `like`."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from datasets import load_from_disk
from PIL import Image
from support.pictures import size_of
from support.thorough import slow_ones
from torch import Tensor

from condprep import AnnotatorSpec, Maps, annotate, build
from condprep.annotation.files import annotate_files
from condprep.annotation.pictures import Annotated
from condprep.annotators import registry
from condprep.annotators.openpose.keypoints import KEYPOINTS, PARTS
from condprep.errors import AnnotatorError, UsageError
from condprep.types import Reject


def pixels(result: Annotated | Reject, column: str = "canny") -> np.ndarray:
    assert isinstance(result, Annotated), result
    return np.asarray(result.maps[column])


@pytest.fixture
def photo(raw: Path) -> Path:
    """A photograph as PNG, without loss."""
    return raw / "group1" / "01.png"


def test_path_bytes_pil_and_array_give_the_same_map(photo: Path) -> None:
    """However a picture is handed over, its map is cv2.Canny of its pixels, of its size."""
    image = Image.open(photo)
    array = np.asarray(image)
    results = annotate([photo, str(photo), photo.read_bytes(), image, array, np.asfortranarray(array)], "canny")
    expected = cv2.Canny(array, 100, 200)
    assert len(results) == 6
    for result in results:
        np.testing.assert_array_equal(pixels(result), expected)
        assert result.image.size == result.maps["canny"].size == image.size
        np.testing.assert_array_equal(np.asarray(result.image), array)


def test_an_opened_picture_is_read_as_its_file_is(tmp_path: Path, photo: Path) -> None:
    """EXIF orientation and transparency count for a PIL picture as they do for the file."""
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(photo).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path, exif=exif)
    from_file, from_pil = annotate([path, Image.open(path)], "canny")
    assert isinstance(from_file, Annotated)
    assert from_file.image.size == image.size[::-1]
    np.testing.assert_array_equal(pixels(from_file), pixels(from_pil))


def test_results_keep_the_order_and_rejects_their_place(raw: Path, photo: Path) -> None:
    """Pictures of mixed sizes and bad ones among them: one result each, in the order of the pictures."""
    good = sorted(raw.rglob("*.[jpw]*"))
    cut = Image.open(BytesIO(good[0].read_bytes()[:5000]))
    bad = [raw / "missing.jpg", np.zeros((4, 4), np.uint8), cut]
    pictures: list[Any] = [*good[:6], b"no picture", *good[6:], *bad]
    results = annotate(pictures, "canny")
    assert len(results) == len(pictures) == 16
    for picture, result in zip(pictures, results):
        if isinstance(picture, Path) and picture.exists():
            rgb = np.asarray(Image.open(picture).convert("RGB"))
            np.testing.assert_array_equal(pixels(result), cv2.Canny(rgb, 100, 200))
    rejects = {number: result for number, result in enumerate(results) if isinstance(result, Reject)}
    assert {number: reject.stage for number, reject in rejects.items()} == {
        6: "decode",
        13: "read",
        14: "decode",
        15: "decode",
    }
    assert "missing.jpg" in rejects[13].source
    assert "(4, 4) uint8 is not (H, W, 3)" in rejects[14].reason
    assert "truncated" in rejects[15].reason


@pytest.mark.parametrize("fit", ["crop", *slow_ones(["bucket", "pad", "keep"])])
@pytest.mark.parametrize("annotators", [["canny"], ["canny", "canny:random"]])
def test_like_repeats_the_dataset(raw: Path, tmp_path: Path, fit: str, annotators: list[str]) -> None:
    """For a dataset's own sources `like` gives its maps, pixel for pixel, drawn thresholds included."""
    options: dict[str, Any] = {
        "resolution": 256,
        "fit": fit,
        "params": {} if annotators[1:] else {"canny": {"low": 40}},
    }
    build(raw, tmp_path / "ds", annotators, **options)
    rows = load_from_disk(str(tmp_path / "ds"))["train"]
    results = annotate([raw / name for name in rows["source"][:]], like=tmp_path / "ds")
    for row, result in zip(rows, results, strict=True):
        assert isinstance(result, Annotated)
        for column, image in result.maps.items():
            stored = np.asarray(row[column if annotators[1:] else "conditioning_image"].convert("L"))
            np.testing.assert_array_equal(np.asarray(image), stored)
        if annotators[1:]:
            assert result.columns["canny_thresholds_random"] == row["canny_thresholds_random"]


def test_like_allows_no_other_settings(raw: Path, tmp_path: Path, photo: Path) -> None:
    """What `like` fixes cannot be said otherwise, and a picture cannot be annotated by nothing."""
    build(raw, tmp_path / "ds", "canny", resolution=128)
    for settings in ({"fit": "crop"}, {"resolution": 512}, {"params": {"canny": {"low": 50}}}):
        with pytest.raises(UsageError, match="leave out params, resolution and fit"):
            annotate([photo], like=tmp_path / "ds", **settings)
    for names in ({"annotators": "canny", "like": tmp_path / "ds"}, {}):
        with pytest.raises(UsageError, match=r"either annotators .* or a dataset"):
            annotate([photo], **names)


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"geometry": {"fit": "crop"}, "annotators": [{}]}'])
def test_damaged_provenance_is_said_so(raw: Path, tmp_path: Path, photo: Path, damage: str) -> None:
    """A provenance file that is cut or foreign is named, whatever is in it; so is one that is missing."""
    with pytest.raises(UsageError, match=r"no dataset made by condprep: .*provenance\.json is missing"):
        annotate([photo], like=raw)
    stored = tmp_path / "ds" / ".condprep" / "provenance.json"
    stored.parent.mkdir(parents=True)
    stored.write_text(damage)
    with pytest.raises(UsageError, match=r"provenance\.json is damaged"):
        annotate([photo], like=tmp_path / "ds")


def test_like_insists_on_the_same_weights(raw: Path, tmp_path: Path, photo: Path) -> None:
    """A dataset that was made with other weights than those at hand cannot be repeated, and both are named."""
    build(raw, tmp_path / "ds", "canny", resolution=128)
    stored = tmp_path / "ds" / ".condprep" / "provenance.json"
    provenance = json.loads(stored.read_text())
    provenance["annotators"][0]["weights"] = {"edges.pth": "abc"}
    stored.write_text(json.dumps(provenance))
    with pytest.raises(AnnotatorError, match=r"made with the weights {'edges.pth': 'abc'}, here are {}"):
        annotate([photo], like=tmp_path / "ds")


@pytest.mark.parametrize("picture", ["photo.jpg", Path("photo.jpg"), b"bytes", Image.new("RGB", (8, 8))])
def test_a_single_picture_is_no_list(picture: Any) -> None:
    """One picture instead of a list is a mistake that is named, not a list of characters."""
    with pytest.raises(UsageError, match=r"give a list of them: \[picture\]"):
        annotate(picture, "canny")


class Poses:
    """A network stand-in: the map is the picture, and one person's nose is at (0, 1), all else is missing."""

    name, device, batch_size, binary = "poses", "cpu", 2, False
    columns: ClassVar = {"keypoints": KEYPOINTS}
    provenance: ClassVar = {"parameters": {}, "weights": {}, "licence": "none", "commercial": True}

    def __init__(self, variant: str) -> None:
        self.variant = variant

    def __call__(self, rgb: Tensor, keys: list[str]) -> Maps:
        nose: dict[str, list[float]] = {part: [] for part in PARTS} | {
            "pose_keypoints_2d": [0.0, 1.0, len(self.variant)] + [0.0] * 51
        }
        return Maps(rgb, {"keypoints": [{"people": [nose]} for _ in keys]})


@pytest.fixture
def poses(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = AnnotatorSpec("poses", "", load=lambda variant, *_, **__: Poses(variant), variants={"a": "", "bb": ""})
    monkeypatch.setattr(registry, "BUILTIN", (*registry.BUILTIN, spec))


@pytest.mark.usefixtures("poses")
def test_files_are_named_after_their_pictures(raw: Path, tmp_path: Path, photo: Path) -> None:
    """NAME.png and NAME.json; of several annotators each with its own column, keypoints too."""
    out = tmp_path / "maps"
    written, rejects = annotate_files([photo], out, annotators="poses:a")
    assert written == [out / "01.png", out / "01.json"]
    assert not rejects
    np.testing.assert_array_equal(np.asarray(Image.open(out / "01.png")), np.asarray(Image.open(photo)))
    written, _ = annotate_files([photo], out, annotators=["poses:a", "poses:bb", "canny"], pictures=True)
    names = ["01.poses_a.png", "01.poses_bb.png", "01.canny.png", "01.image.png", "01.a.json", "01.bb.json"]
    assert [path.name for path in written] == names
    for name, confidence in (("01.a.json", 1), ("01.bb.json", 2)):
        (person,) = json.loads((out / name).read_text())["people"]
        assert person["pose_keypoints_2d"][:4] == [0, 1, confidence, 0]


@pytest.mark.usefixtures("poses")
def test_keypoints_lie_where_the_picture_lies(tmp_path: Path) -> None:
    """In a padded picture a joint is where its pixels are, missing ones stay 0, in annotate and in a dataset."""
    (tmp_path / "wide").mkdir()
    Image.new("RGB", (200, 100), "red").save(tmp_path / "wide" / "a.png")
    Image.new("RGB", (100, 200), "red").save(tmp_path / "wide" / "b.png")
    pictures = sorted((tmp_path / "wide").iterdir())
    build(tmp_path / "wide", tmp_path / "ds", "poses:a", fit="pad", resolution=128)
    stored = load_from_disk(str(tmp_path / "ds"))["train"]["keypoints"][:]
    results = annotate(pictures, "poses:a", fit="pad", resolution=128)
    for result, row, corner in zip(results, stored, ([0, 32], [32, 0]), strict=True):
        assert isinstance(result, Annotated)
        x, y = corner
        found = result.columns["keypoints"]["people"][0]["pose_keypoints_2d"]
        assert found == row["people"][0]["pose_keypoints_2d"] == [x, y + 1, 1] + [0] * 51
        assert result.maps["poses"].getpixel((x, y + 1)) == (255, 0, 0)
        assert result.maps["poses"].getpixel((127 - x, 127 - y)) == (255, 0, 0)
        assert result.maps["poses"].getpixel((max(0, x - 1), max(0, y - 1))) == (0, 0, 0)


def test_nothing_is_overwritten_or_half_done(raw: Path, tmp_path: Path, photo: Path) -> None:
    """Where one file is there already none is written, unless overwriting is asked for."""
    out, other = tmp_path / "maps", raw / "group0" / "00.jpg"
    out.mkdir()
    (out / "01.png").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"01\.png exists; choose another --out or say --overwrite"):
        annotate_files([other, photo], out, annotators="canny")
    assert [path.name for path in out.iterdir()] == ["01.png"]
    assert (out / "01.png").read_bytes() == b"precious"
    written, _ = annotate_files([other, photo], out, annotators="canny", overwrite=True)
    assert sorted(path.name for path in written) == ["00.png", "01.png"]
    assert size_of(out / "01.png") == size_of(photo)


def test_pictures_of_one_name_do_not_hide_each_other(tmp_path: Path, photo: Path) -> None:
    """Equal stems keep their extensions; equal file names, which would become one file, are refused."""
    data = photo.read_bytes()
    paths = [tmp_path / "a" / "x.png", tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.png"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    written, _ = annotate_files(paths[:2], tmp_path / "maps", annotators="canny")
    assert [path.name for path in written] == ["x.png.png", "x.jpg.png"]
    with pytest.raises(UsageError, match=r"two of the pictures would become .*x\.png\.png"):
        annotate_files([paths[0], paths[2]], tmp_path / "others", annotators="canny")
