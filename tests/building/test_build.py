"""The build: rows that line up, datasets that load where users load them, nothing lost and nothing silent."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from datasets import load_dataset, load_from_disk
from PIL import Image
from support.command import Command
from support.datasets import raw_bytes

from condprep import build
from condprep.dataset.columns import arrow_schema, columns, datasets_features
from condprep.errors import Rejected, UsageError
from condprep.runtime.progress import Progress

SMALL = {"resolution": 128, "shard_rows": 5}


def test_every_row_is_a_picture_and_its_own_map(raw: Path, tmp_path: Path) -> None:
    """The stored map is cv2.Canny of the picture cropped and resized as its `transform` says, for every row."""
    result = build(raw, tmp_path / "ds", "canny", image_format="png", **SMALL)
    assert (result.inputs, result.rows, result.rejects) == (12, {"train": 12}, {})
    for row in load_from_disk(str(tmp_path / "ds"))["train"]:
        picture, edges = np.asarray(row["image"]), np.asarray(row["conditioning_image"])
        assert picture.shape == (128, 128, 3) == (row["height"], row["width"], 3)
        np.testing.assert_array_equal(edges * 255, cv2.Canny(picture, 100, 200))
        source = np.asarray(Image.open(raw / row["source"]).convert("RGB"))
        sx, _, tx, _, sy, ty = row["transform"]
        assert sx == sy == pytest.approx(128 / min(source.shape[:2]))
        moved = cv2.warpAffine(source, np.float32([[sx, 0, tx], [0, sy, ty]]), (128, 128), flags=cv2.INTER_AREA)
        blurred = [cv2.GaussianBlur(image, (0, 0), 4).astype(float) for image in (moved, picture)]
        assert np.abs(blurred[0] - blurred[1]).mean() < 4


def test_loads_where_users_load_it(raw: Path, tmp_path: Path) -> None:
    """load_from_disk and load_dataset give the same rows, in the columns and order that diffusers' script guesses by."""
    build(raw, tmp_path / "ds", "canny", **SMALL)
    disk = load_from_disk(str(tmp_path / "ds"))
    loaded = load_dataset(str(tmp_path / "ds"), cache_dir=str(tmp_path / "cache"))
    assert list(disk) == list(loaded) == ["train"]
    expected = ["image", "text", "conditioning_image", "key", "source", "width", "height", "transform", "empty"]
    assert disk["train"].column_names == loaded["train"].column_names == expected
    assert disk["train"]["source"][:] == loaded["train"]["source"][:] == sorted(disk["train"]["source"][:])
    assert [text for text in disk["train"]["text"] if text] == [f"photograph {n}" for n in (3, 9, 1, 7, 5, 11)]


def test_the_unmodified_training_script_can_read_it(raw: Path, tmp_path: Path) -> None:
    """The calls and transforms of diffusers' train_controlnet.py: guessed columns, RGB, Resize + CenterCrop, ranges."""
    from torchvision import transforms

    build(raw, tmp_path / "ds", "canny", **SMALL)
    rows = load_dataset(str(tmp_path / "ds"), cache_dir=str(tmp_path / "cache"))["train"]
    image_column, caption_column, condition_column = rows.column_names[:3]
    fit = [transforms.Resize(128, transforms.InterpolationMode.BILINEAR), transforms.CenterCrop(128)]
    condition = transforms.Compose([*fit, transforms.ToTensor()])
    target = transforms.Compose([*fit, transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    for row in rows:
        assert isinstance(row[caption_column], str)
        pixels, edges = target(row[image_column].convert("RGB")), condition(row[condition_column].convert("RGB"))
        assert pixels.shape == edges.shape == (3, 128, 128)
        assert pixels.min() < -0.5 < 0.5 < pixels.max() <= 1
        assert set(edges.unique().tolist()) == {0.0, 1.0}


def test_a_picture_that_needs_no_change_keeps_its_bytes(tmp_path: Path, raw: Path) -> None:
    """At its own size a JPEG, PNG or WebP is stored byte for byte; one that is changed is JPEG 4:4:4 by default."""
    result = build(raw, tmp_path / "keep", "canny", fit="keep")
    assert result.untouched == 12
    assert raw_bytes(tmp_path / "keep") == [
        path.read_bytes() for path in sorted(raw.rglob("*.*")) if path.suffix != ".txt"
    ]
    build(raw, tmp_path / "crop", "canny", **SMALL)
    for encoded in raw_bytes(tmp_path / "crop"):
        picture = Image.open(io.BytesIO(encoded))
        assert picture.format == "JPEG"
        assert {layer[1:3] for layer in picture.layer} == {(1, 1)}


def test_keep_gives_maps_of_the_pictures_own_size(raw: Path, tmp_path: Path) -> None:
    """fit keep: sizes differ from row to row, and each map has its picture's."""
    build(raw, tmp_path / "ds", "canny", fit="keep")
    rows = load_from_disk(str(tmp_path / "ds"))["train"]
    assert len({row["image"].size for row in rows}) > 1
    assert all(row["image"].size == row["conditioning_image"].size for row in rows)


def test_inputs_are_rows_plus_rejects(raw: Path, tmp_path: Path) -> None:
    """Bad pictures among good ones: each is a reject with stage and reason, and no good one is lost."""
    (raw / "empty.jpg").write_bytes(b"")
    (raw / "text.jpg").write_text("this is no picture")
    (raw / "cut.jpg").write_bytes((raw / "group0" / "00.jpg").read_bytes()[:5000])
    Image.new("RGB", (20, 20)).save(raw / "tiny.png")
    result = build(raw, tmp_path / "ds", "canny", **SMALL)
    assert result.inputs == 16 == sum(result.rows.values()) + sum(result.rejects.values())
    assert result.rows == {"train": 12}
    lines = (tmp_path / "ds" / ".condprep" / "rejects.jsonl").read_text().splitlines()
    rejects = {reject["source"]: reject for reject in map(json.loads, lines)}
    assert {name: reject["stage"] for name, reject in rejects.items()} == {
        "empty.jpg": "decode",
        "text.jpg": "decode",
        "cut.jpg": "decode",
        "tiny.png": "fit",
    }
    assert "enlarged 6.40 x" in rejects["tiny.png"]["reason"]
    assert "truncated" in rejects["cut.jpg"]["reason"]
    allowed = build(raw, tmp_path / "ds2", "canny", allow_truncated=True, max_upscale=10, **SMALL)
    assert allowed.rows == {"train": 14}
    assert allowed.enlarged == 1


def test_captions_missing_first_and_all(raw: Path, tmp_path: Path) -> None:
    """A missing caption is the empty string and counted; lines are one caption, and a list of them only on request."""
    (raw / "group1" / "01.txt").write_text("first\n\nsecond\n")
    result = build(raw, tmp_path / "first", "canny", **SMALL)
    assert result.without_caption == 6
    texts = load_from_disk(str(tmp_path / "first"))["train"]["text"][:]
    assert "first second" in texts
    assert texts.count("") == 6
    build(raw, tmp_path / "all", "canny", captions="list", **SMALL)
    texts = load_from_disk(str(tmp_path / "all"))["train"]["text"][:]
    assert ["first", "second"] in texts
    assert texts.count([""]) == 6


def test_several_annotators_in_one_pass(raw: Path, tmp_path: Path) -> None:
    """One column an annotator, `primary` is also conditioning_image, and random thresholds are recorded."""
    build(raw, tmp_path / "ds", ["canny", "canny:random"], primary="canny:random", image_format="png", **SMALL)
    rows = load_from_disk(str(tmp_path / "ds"))["train"]
    assert rows.column_names[:5] == ["image", "text", "conditioning_image", "canny", "canny_random"]
    for row in rows:
        picture = np.asarray(row["image"])
        low, high = row["canny_thresholds_random"]
        np.testing.assert_array_equal(np.asarray(row["canny"]) * 255, cv2.Canny(picture, 100, 200))
        np.testing.assert_array_equal(np.asarray(row["canny_random"]) * 255, cv2.Canny(picture, low, high))
        np.testing.assert_array_equal(np.asarray(row["canny_random"]), np.asarray(row["conditioning_image"]))


def test_the_validation_split_belongs_to_the_picture(raw: Path, tmp_path: Path) -> None:
    """A picture keeps its split when others are added, and both splits load."""
    build(raw, tmp_path / "before", "canny", validation=0.4, **SMALL)
    before = {name: set(rows["key"][:]) for name, rows in load_from_disk(str(tmp_path / "before")).items()}
    assert len(before["train"]) + len(before["validation"]) == 12
    assert before["validation"]
    Image.new("RGB", (200, 200), "red").save(raw / "added.png")
    build(raw, tmp_path / "after", "canny", validation=0.4, **SMALL)
    after = {name: set(rows["key"][:]) for name, rows in load_from_disk(str(tmp_path / "after")).items()}
    assert all(before[name] <= after[name] for name in before)
    loaded = load_dataset(str(tmp_path / "after"), cache_dir=str(tmp_path / "cache"))
    assert {name: rows.num_rows for name, rows in loaded.items()} == {name: len(keys) for name, keys in after.items()}


def test_parquet_is_the_hubs_layout(raw: Path, tmp_path: Path) -> None:
    """--format parquet: the same rows in data/SPLIT-*.parquet, read by load_dataset."""
    build(raw, tmp_path / "arrow", "canny", validation=0.4, **SMALL)
    build(raw, tmp_path / "parquet", "canny", validation=0.4, format="parquet", **SMALL)
    assert sorted(path.name for path in (tmp_path / "parquet" / "data").iterdir())[0].startswith("train-00000-of-0000")
    arrow = load_from_disk(str(tmp_path / "arrow"))
    parquet = load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "cache"))
    for split in ("train", "validation"):
        assert parquet[split].features == arrow[split].features
        assert parquet[split]["key"][:] == arrow[split]["key"][:]
        assert parquet[split]["transform"][:] == arrow[split]["transform"][:]


def test_progress_counts_every_input(raw: Path, tmp_path: Path) -> None:
    """The callback sees the listing, how many there are, then every input once, then the finish."""
    (raw / "bad.png").write_bytes(b"")
    seen: list[Progress] = []
    build(raw, tmp_path / "ds", "canny", progress=seen.append, **SMALL)
    assert [state.done for state in seen if state.stage == "build"] == list(range(14))
    assert seen[0].stage == "list"
    assert (seen[-1].stage, seen[-1].total) == ("finish", 13)
    assert max(state.rejects for state in seen) == 1


def test_rejected_is_for_the_pipeline_alone() -> None:
    """Rejected knows its stage and reason, which is what a reject records."""
    rejected = Rejected("fit", "too small")
    assert (rejected.stage, rejected.reason, str(rejected)) == ("fit", "too small", "too small")


def test_the_columns_metadata_is_what_datasets_itself_writes(raw: Path, tmp_path: Path) -> None:
    """The schema and the feature names equal those of `datasets.Features`, for every kind of column there is."""
    from datasets import Features

    from condprep.annotators.openpose.keypoints import KEYPOINTS

    kinds = columns(["canny"], {}, captions="list") | {
        "keypoints": KEYPOINTS,
        "flag": pa.bool_(),
        "numbers": pa.list_(pa.int32()),
        "small": pa.struct({"low": pa.float32(), "png": pa.binary()}),
    }
    schema = arrow_schema(kinds)
    theirs = Features.from_arrow_schema(schema)
    assert theirs.to_dict() == datasets_features(kinds)
    assert theirs.arrow_schema.equals(schema)
    assert theirs.arrow_schema.metadata == schema.metadata


def test_an_argument_that_there_is_not_is_named_as_python_names_it(raw: Path, tmp_path: Path) -> None:
    """`build(res=250)`: the nearest argument, and no option of the command line."""
    with pytest.raises(UsageError, match=r"^build\(\.\.\.\) has no argument 'res'; did you mean resolution\?$"):
        build(raw, tmp_path / "ds", "canny", res=250)
    with pytest.raises(UsageError, match=r"no argument 'qqqq'; known are .* resolution,"):
        build(raw, tmp_path / "ds", "canny", qqqq=1)
    assert not (tmp_path / "ds").exists()


def test_the_end_of_a_build_says_where_its_rejects_are(raw: Path, tmp_path: Path, command: Command) -> None:
    """The file that lists them, where there are any."""
    (raw / "broken.jpg").write_bytes(b"no picture")
    ended = command("build", raw, "-a", "canny", "--resolution", "64", "--out", tmp_path / "ds")
    listed = next(line.partition("\t")[2] for line in ended.out.splitlines() if line.startswith("listed in"))
    assert json.loads(Path(listed).read_text())["source"] == "broken.jpg"
    clean = command("build", raw / "group1", "-a", "canny", "--resolution", "64", "--out", tmp_path / "clean")
    assert "listed in" not in clean.out
