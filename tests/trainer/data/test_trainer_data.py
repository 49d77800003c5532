"""Rows by number from any paired dataset; checked before step 1; one transform, and one mirror, for picture and map."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.trainer_models import build_dataset

from condprep.annotators.openpose.draw import draw_poses
from condprep.annotators.openpose.keypoints import JOINTS, Pose, column_value
from condprep.images.decode import decode
from trainer.data.rows import Row, open_rows
from trainer.data.scan import scan
from trainer.data.transform import Transform, check_mirror, mirrored_pose
from trainer.errors import DataError
from trainer.recipe.recipe import Data


def png(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


def picture(seed: int = 0, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """(H, W, 3) of noise; size: (height, width)."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def edges(seed: int = 0, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    return np.asarray(cv2.Canny(np.ascontiguousarray(picture(seed, size)), 100, 200))


def save(folder: Path, rows: int = 6, **columns: Any) -> Path:
    """A dataset of `datasets` with a split train; columns take the place of the usual ones."""
    usual: dict[str, Any] = {
        "image": [{"bytes": png(picture(row)), "path": None} for row in range(rows)],
        "text": [f"caption {row}" for row in range(rows)],
        "conditioning_image": [{"bytes": png(edges(row)), "path": None} for row in range(rows)],
    }
    kinds = {name: datasets.Image() for name in usual if name != "text"}
    made = datasets.Dataset.from_dict(usual | columns)
    for name, kind in kinds.items():
        made = made.cast_column(name, kind)
    datasets.DatasetDict({"train": made}).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: Any) -> Path:
    return build_dataset(tmp_path_factory.mktemp("data") / "ds")


# Rows


def test_rows_of_a_build_are_those_of_datasets(built: Path, tmp_path: Path) -> None:
    """Every row read by number has the bytes, caption and key that `load_from_disk` gives, split by split."""
    for split in ("train", "validation"):
        rows = open_rows(Data(path=str(built)), split, tmp_path)
        expected = datasets.load_from_disk(str(built))[split].with_format("arrow")
        assert len(rows) == len(expected) > 0
        for number in range(len(rows)):
            row, known = rows[number], expected[number].to_pylist()[0]
            assert (row.image, row.condition) == (known["image"]["bytes"], known["conditioning_image"]["bytes"])
            assert (row.key, row.captions) == (known["key"], tuple(known["text"]))
        assert rows.kind == "canny"
    assert not list(tmp_path.iterdir()), "what lies in Arrow files is not copied"


def two_folders(built: Path, folder: Path) -> tuple[Path, int]:
    rows = open_rows(Data(path=str(built)), "train", folder)
    for number in range(len(rows)):
        row = rows[number]
        for name, data in (("image", row.image), ("canny", row.condition)):
            (folder / "pairs" / name).mkdir(parents=True, exist_ok=True)
            (folder / "pairs" / name / f"{number:03d}.png").write_bytes(data)
        (folder / "pairs" / "image" / f"{number:03d}.txt").write_text(row.captions[0])
    return folder / "pairs", len(rows)


def parquet(built: Path, folder: Path) -> tuple[Path, int]:
    rows = datasets.load_from_disk(str(built))["train"]
    rows.to_parquet(folder / "pairs" / "data" / "train-00000-of-00001.parquet")
    return folder / "pairs", len(rows)


def listing(built: Path, folder: Path) -> tuple[Path, int]:
    root, count = two_folders(built, folder)
    lines = [
        {"source": f"canny/{n:03d}.png", "target": f"image/{n:03d}.png", "prompt": f"row {n}"} for n in range(count)
    ]
    (root / "prompt.json").write_text("\n".join(map(json.dumps, lines)))
    return root, count


@pytest.mark.parametrize("layout", [two_folders, parquet, listing])
def test_every_dataset_that_verify_reads_can_be_trained_on(
    layout: Callable[[Path, Path], tuple[Path, int]], built: Path, tmp_path: Path
) -> None:
    """Folders, listings and Parquet give the pictures of the Arrow dataset; the copy that it takes is made once."""
    (tmp_path / "pairs").mkdir()
    path, count = layout(built, tmp_path)
    expected = open_rows(Data(path=str(built)), "train", tmp_path)
    rows = open_rows(Data(path=str(path)), "train", tmp_path / "copies")
    found = {(row.image, row.condition) for row in map(rows.__getitem__, range(count))}
    assert found == {(row.image, row.condition) for row in map(expected.__getitem__, range(count))}
    assert all(caption for number in range(count) for caption in rows.captions(number))
    (copy,) = (tmp_path / "copies").iterdir()
    before = copy.stat().st_mtime_ns
    open_rows(Data(path=str(path)), "train", tmp_path / "copies")
    assert copy.stat().st_mtime_ns == before


@pytest.mark.parametrize("parquet", [False, True])
def test_the_column_of_the_conditions_is_the_one_that_was_used(parquet: bool, tmp_path: Path) -> None:
    """A name that was guessed is the one that is recorded, also where the rows are read from a copy."""
    folder = save(tmp_path / "ds")
    renamed = datasets.load_from_disk(str(folder))["train"].rename_column("conditioning_image", "canny")
    if parquet:
        renamed.to_parquet(tmp_path / "named" / "train.parquet")
    else:
        datasets.DatasetDict({"train": renamed}).save_to_disk(tmp_path / "named")
    rows = open_rows(Data(path=str(tmp_path / "named")), "train", tmp_path / "copies")
    assert rows.column == "canny"
    assert (tmp_path / "copies").exists() == parquet


def test_max_rows_are_spread_evenly(built: Path, tmp_path: Path) -> None:
    """`max_rows` takes that many different rows, in order, the first among them."""
    everything = open_rows(Data(path=str(built)), "train", tmp_path)
    rows = open_rows(Data(path=str(built), max_rows=4), "train", tmp_path)
    keys = [everything.key(number) for number in range(len(everything))]
    chosen = [keys.index(rows.key(number)) for number in range(4)]
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    assert chosen[-1] >= len(everything) * 3 // 4


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"split": "trian"}, "no split 'trian'; there is train, validation"),
        ({"image_column": "picture"}, r"data\.image_column 'picture' is not there"),
        ({"condition_column": "key"}, r"data\.condition_column 'key' holds no pictures"),
        ({"caption_column": "txt"}, r"data\.caption_column 'txt' is not there; did you mean text"),
        ({"kind": "pose"}, 'data.kind = "pose", but the conditions of .* are of kind "canny"'),
        ({"path": "/no/such/place"}, "there is no file or folder"),
    ],
)
def test_a_wrong_word_in_the_recipe_is_answered_in_its_words(
    recipe: dict[str, str], said: str, built: Path, tmp_path: Path
) -> None:
    """Path, split, columns and kind are each checked against what is there."""
    data = Data(**({"path": str(built)} | recipe))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=said):
        open_rows(data, data.split, tmp_path)


def test_a_dataset_without_captions_is_refused(tmp_path: Path) -> None:
    """A ControlNet is trained with text."""
    folder = save(tmp_path / "ds")
    made = datasets.load_from_disk(str(folder))["train"].remove_columns("text")
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "bare")
    with pytest.raises(DataError, match=r"no captions .* data\.caption_column"):
        open_rows(Data(path=str(tmp_path / "bare")), "train", tmp_path)


def test_a_damaged_file_is_named(built: Path, tmp_path: Path) -> None:
    """An Arrow file that is cut off is a DataError, not a crash."""
    folder = Path(shutil.copytree(built, tmp_path / "ds"))
    (file,) = (folder / "train").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(DataError, match="damaged"):
        open_rows(Data(path=str(folder)), "train", tmp_path)


def test_pixels_that_look_otherwise_are_a_note(tmp_path: Path) -> None:
    """Where the dataset does not say its kind the recipe's word counts, and a note tells what the maps look like."""
    folder = save(tmp_path / "ds")
    assert open_rows(Data(path=str(folder)), "train", tmp_path).kind == "canny"
    rows = open_rows(Data(path=str(folder), kind="depth"), "train", tmp_path)
    assert rows.kind == "depth"
    assert any("look like canny" in note for note in rows.notes)


# The scan


def test_a_scan_knows_every_size_and_is_kept(built: Path, tmp_path: Path) -> None:
    """The sizes are those of the pictures; a second scan opens no row and says the same."""
    rows = open_rows(Data(path=str(built)), "train", tmp_path)
    seen: list[int] = []
    found = scan(rows, "ds", tmp_path, lambda done, total: seen.append(done))
    assert found.sizes == [(64, 64)] * len(rows)
    assert seen == list(range(1, len(rows) + 1))
    seen.clear()
    assert scan(rows, "ds", tmp_path, lambda done, total: seen.append(done)) == found
    assert not seen


def test_the_fingerprint_is_that_of_the_content(built: Path, tmp_path: Path) -> None:
    """A copy elsewhere has the same; another caption, picture or map has another."""
    original = open_rows(Data(path=str(built)), "train", tmp_path)
    copied = open_rows(Data(path=str(shutil.copytree(built, tmp_path / "copy"))), "train", tmp_path)
    same = scan(original, "ds", tmp_path / "a").fingerprint
    assert scan(copied, "ds", tmp_path / "b").fingerprint == same
    found = {same}
    for number, columns in enumerate(({"text": ["x"] * 6}, {"image": [png(picture(9))] * 6}, {})):
        folder = save(tmp_path / str(number), **columns)
        found.add(scan(open_rows(Data(path=str(folder)), "train", tmp_path), "ds", tmp_path / "c").fingerprint)
    assert len(found) == 4


def wrong(row: int, value: Any, column: str = "conditioning_image") -> dict[str, Any]:
    """A column with one value that is not as it should be."""
    usual = {"image": png(picture()), "conditioning_image": png(edges()), "text": "a caption"}
    return {column: [value if number == row else usual[column] for number in range(6)]}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (wrong(2, png(edges(0, (64, 128)))), r"train:2: the map has another shape"),
        (wrong(2, png(edges(0, (32, 32)))), r"train:2: the map is 32 x 32 px, the picture 64 x 64 px"),
        (wrong(2, b"no picture"), r"train:2: the condition cannot be decoded"),
        (wrong(2, png(picture()), "image") | wrong(3, b"", "image"), r"train:3: the image cannot be decoded"),
        (wrong(2, None), r"there is no picture in 'conditioning_image'"),
        (wrong(2, None, "text"), r"the caption is missing \(null\)"),
        ({"text": [""] * 6}, r"every caption of split 'train' is empty"),
    ],
)
def test_rows_that_verify_would_refuse_are_refused_before_step_1(
    columns: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Unequal pairs, unreadable pictures and missing captions are named with their row; so are captions that are all empty."""
    folder = save(tmp_path / "ds", **columns)
    with pytest.raises(DataError, match=said):
        scan(open_rows(Data(path=str(folder)), "train", tmp_path / "kept"), str(folder), tmp_path / "kept")
    assert not (tmp_path / "kept").exists(), "a mistake leaves nothing behind"


# The transform


def test_a_row_at_its_training_size_is_untouched() -> None:
    """Picture and map come out bit for bit, at the square and at every bucket of the resolution."""
    for kind, size in (("canny", (64, 64)), ("depth", (512, 512)), (None, (384, 640))):
        row = Row("", png(picture(1, size)), png(edges(1, size)), ("",))
        transform = Transform(64 if size == (64, 64) else 512, "bucket", kind)
        pixels, condition = transform(row)
        assert not transform.place(size).changes(size)
        assert np.array_equal(pixels, picture(1, size))
        assert np.array_equal(condition[..., 0], edges(1, size))


@pytest.mark.parametrize("kind", ["canny", "pose", "segmentation"])
def test_maps_of_few_levels_get_no_new_ones(kind: str) -> None:
    """Nearest neighbour, up and down: a binary map stays binary."""
    for size in ((200, 160), (40, 48)):
        row = Row("", png(picture(1, size)), png(edges(1, size)), ("",))
        pixels, condition = Transform(64, "crop", kind)(row)
        assert pixels.shape == condition.shape == (64, 64, 3)
        assert set(np.unique(condition)) <= {0, 255}


@given(
    height=st.integers(16, 200),
    width=st.integers(16, 200),
    fit=st.sampled_from(["bucket", "crop"]),
    at=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    mirrored=st.booleans(),
    random=st.booleans(),
)
def test_picture_and_map_go_the_same_way(
    height: int, width: int, fit: Any, at: tuple[float, float], mirrored: bool, random: bool
) -> None:
    """A map that is the picture itself comes out as the picture does, whatever is drawn; sizes are those of the bucket."""
    data = png(picture(2, (height, width)))
    transform = Transform(64, fit, None, random)
    pixels, condition = transform(Row("", data, data, ("",)), mirrored, at)
    assert np.array_equal(pixels, condition)
    placement = transform.place((height, width), at)
    assert pixels.shape[:2] == placement.canvas
    top, left, h, w = placement.box
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w


def test_a_random_crop_reaches_every_place() -> None:
    """Of a row wider than its bucket every offset is drawn, and only the free side moves."""
    transform = Transform(64, "crop", None, random=True)
    boxes = {transform.place((64, 68), (0.3, left / 100)).box for left in range(100)}
    assert boxes == {(0, left, 64, 64) for left in range(5)}


def test_a_mirror_is_a_mirror() -> None:
    """Mirrored picture and map are the others, seen from behind."""
    row = Row("", png(picture(1)), png(edges(1)), ("",))
    transform = Transform(64, "crop", "canny")
    for side, other in zip(transform(row), transform(row, mirrored=True)):
        assert np.array_equal(side[:, ::-1], other)


# Poses


def person(seed: int, size: int = 64) -> Pose:
    points = np.random.default_rng(seed).uniform(4, size - 4, (18, 3)).astype(np.float32)
    points[:, 2] = 0.9
    points[seed % 18] = 0  # a joint that was not found
    return Pose(points)


def pose_dataset(folder: Path) -> Path:
    people = [[person(row), person(row + 50)] for row in range(6)]
    maps = [png(draw_poses(pair, 64, 64)) for pair in people]
    return save(folder, conditioning_image=maps, keypoints=[column_value(pair) for pair in people])


def test_keypoints_are_found_and_draw_the_stored_map(tmp_path: Path) -> None:
    """The dataset's keypoints are read with their row, and the map that they draw is the one that is stored."""
    rows = open_rows(Data(path=str(pose_dataset(tmp_path / "ds")), kind="pose"), "train", tmp_path)
    assert rows.kind == "pose"
    for number in range(len(rows)):
        row = rows[number]
        assert row.keypoints is not None
        poses = [mirrored_pose(one, 64) for one in row.keypoints["people"]]
        twice = [mirrored_pose(one, 64) for one in column_value(poses)["people"]]
        assert np.array_equal(draw_poses(twice, 64, 64), decode(row.condition).rgb)


def test_a_mirrored_pose_exchanges_left_and_right() -> None:
    """What was the right shoulder at x is the left one at width - 1 - x; missing joints stay missing; hands change sides."""
    body = person(3).body
    hand = np.full((21, 3), 5, np.float32)
    (value,) = column_value([Pose(body, left_hand=hand)])["people"]
    mirrored = mirrored_pose(value, 64)
    for joint, other in (("right_shoulder", "left_shoulder"), ("nose", "nose"), ("left_ear", "right_ear")):
        x, y, score = body[JOINTS.index(joint)]
        found = mirrored.body[JOINTS.index(other)]
        expected = (63 - x, y, score) if x or y else (0, 0, 0)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert mirrored.left_hand is None
    assert mirrored.right_hand is not None
    assert mirrored.right_hand[0, 0] == 58


def test_a_mirrored_pose_keeps_the_colours_of_the_sides(tmp_path: Path) -> None:
    """The mirrored map has the very colours of the stored one where each joint now is: never a mirrored picture of it."""
    rows = open_rows(Data(path=str(pose_dataset(tmp_path / "ds")), kind="pose"), "train", tmp_path)
    row = rows[0]
    _, condition = Transform(64, "crop", "pose")(row, mirrored=True)
    assert row.keypoints is not None
    expected = draw_poses([mirrored_pose(one, 64) for one in row.keypoints["people"]], 64, 64)
    assert np.array_equal(condition, expected)
    assert not np.array_equal(condition, decode(row.condition).rgb[:, ::-1])


@pytest.mark.parametrize(
    ("kind", "keypoints", "said"),
    [("pose", False, "no column of them"), ("normal", True, "the wrong way"), (None, True, "name it with data.kind")],
)
def test_what_cannot_be_mirrored_is_refused(kind: str | None, keypoints: bool, said: str) -> None:
    """Poses without keypoints, normals, and maps that could be either."""
    with pytest.raises(DataError, match=rf"data\.hflip: .*{said}"):
        check_mirror(kind, keypoints)
    check_mirror("pose", True)
    check_mirror("canny", False)
