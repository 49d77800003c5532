"""The build: rows that line up, datasets that load where users load them, nothing lost and nothing silent."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from datasets import load_dataset, load_from_disk
from PIL import Image
from support.datasets import raw_bytes, tree

from condprep import build
from condprep.building.output_folder import locked
from condprep.dataset.columns import arrow_schema, columns, features
from condprep.dataset.layout import Layout
from condprep.errors import BuildFailed, DatasetError, Rejected, SourceError, UsageError
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
    """A missing caption is the empty string and counted; several are kept as a list only on request."""
    (raw / "group1" / "01.txt").write_text("first\n\nsecond\n")
    result = build(raw, tmp_path / "first", "canny", **SMALL)
    assert result.without_caption == 6
    texts = load_from_disk(str(tmp_path / "first"))["train"]["text"][:]
    assert "first" in texts
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


def test_shards_are_cut_by_rows_and_by_bytes(raw: Path, tmp_path: Path) -> None:
    """No file has more rows than asked for; one that grows beyond the bytes is followed by another."""
    build(raw, tmp_path / "rows", "canny", **SMALL)
    assert len(list((tmp_path / "rows" / "train").glob("*.arrow"))) == 3
    build(raw, tmp_path / "bytes", "canny", fit="keep", image_format="png", shard_rows=12, shard_bytes=1_000_000)
    files = sorted((tmp_path / "bytes" / "train").glob("*.arrow"))
    assert len(files) > 1
    assert all(file.stat().st_size < 1_600_000 for file in files)
    assert load_from_disk(str(tmp_path / "bytes"))["train"].num_rows == 12


def test_the_workers_do_not_change_the_bytes(raw: Path, tmp_path: Path) -> None:
    """One worker and five give the same files, byte for byte, in every fit."""
    for fit in ("crop", "bucket", "pad", "keep"):
        options: dict[str, Any] = {**SMALL, "fit": fit, "max_upscale": 4}
        build(raw, tmp_path / f"{fit}1", "canny", workers=1, **options)
        build(raw, tmp_path / f"{fit}5", "canny", workers=5, **options)
        assert tree(tmp_path / f"{fit}1") == tree(tmp_path / f"{fit}5")


def test_a_finished_build_is_not_done_again(raw: Path, tmp_path: Path) -> None:
    """The same call on a finished dataset changes nothing and says so."""
    first = build(raw, tmp_path / "ds", "canny", **SMALL)
    before = tree(tmp_path / "ds")
    second = build(raw, tmp_path / "ds", "canny", **SMALL)
    assert (second.rows, second.resumed) == (first.rows, first.inputs)
    assert tree(tmp_path / "ds") == before


def test_other_settings_on_an_existing_dataset_are_refused(raw: Path, tmp_path: Path) -> None:
    """Each differing setting is named with both values; --overwrite starts afresh."""
    build(raw, tmp_path / "ds", "canny", **SMALL)
    with pytest.raises(DatasetError, match=r"resolution: 128 there, 192 now.*--overwrite"):
        build(raw, tmp_path / "ds", "canny", resolution=192, shard_rows=5)
    with pytest.raises(DatasetError, match=r"canny.low: None there, 50 now"):
        build(raw, tmp_path / "ds", "canny", params={"canny": {"low": 50}}, **SMALL)
    build(raw, tmp_path / "ds", "canny", resolution=192, shard_rows=5, overwrite=True)
    assert load_from_disk(str(tmp_path / "ds"))["train"][0]["width"] == 192
    assert (
        tree(tmp_path / "ds").keys()
        == (build(raw, tmp_path / "new", "canny", resolution=192, shard_rows=5), tree(tmp_path / "new"))[1].keys()
    )


def test_inputs_that_changed_since_are_noticed(raw: Path, tmp_path: Path) -> None:
    """New, missing and changed pictures are counted and named when the build is run again."""
    build(raw, tmp_path / "ds", "canny", **SMALL)
    Image.new("RGB", (200, 200)).save(raw / "new.png")
    (raw / "group0" / "00.jpg").unlink()
    shutil.copy(raw / "group1" / "01.png", raw / "group1" / "04.png")
    with pytest.raises(
        DatasetError, match=r"1 new \('new.png'\), 1 gone \('group0/00.jpg'\), 1 changed \('group1/04.png'\)"
    ):
        build(raw, tmp_path / "ds", "canny", **SMALL)


def test_folders_of_others_are_left_alone(raw: Path, tmp_path: Path) -> None:
    """A folder that condprep did not make is refused, also with --overwrite; so is a source inside the output."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(DatasetError, match="not made by condprep"):
            build(raw, tmp_path / "other", "canny", overwrite=overwrite)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(UsageError, match="inside the output folder"):
        build(raw, tmp_path, "canny")
    with pytest.raises(UsageError, match="inside the output folder"):
        build(raw, raw, "canny")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="is a file"):
        build(raw, tmp_path / "file", "canny")


def test_the_output_may_lie_inside_the_source(raw: Path, tmp_path: Path) -> None:
    """`condprep build . --out ds` does not take its own output for input, also when it resumes."""
    for _ in range(2):
        result = build(raw, raw / "ds", "canny", **SMALL)
        assert result.inputs == 12


def test_a_second_process_is_refused(raw: Path, tmp_path: Path) -> None:
    """While one process builds into a folder another one is told so."""
    with locked(Layout(tmp_path / "ds")), pytest.raises(DatasetError, match="another process is building"):
        build(raw, tmp_path / "ds", "canny", **SMALL)
    assert build(raw, tmp_path / "ds", "canny", **SMALL).rows == {"train": 12}


def test_a_mistake_leaves_no_folder_behind(raw: Path, tmp_path: Path) -> None:
    """A device that is not there ends the build before it began: nothing is written, and a folder that was stays."""
    (tmp_path / "mine").mkdir()
    for name in ("ds", "mine"):
        with pytest.raises(UsageError, match="device"):
            build(raw, tmp_path / name, "canny", device="nonsense")
        assert not (tmp_path / name / ".condprep").exists()
    assert not (tmp_path / "ds").exists()


def test_no_rows_and_too_many_rejects_fail(tmp_path: Path, raw: Path) -> None:
    """Nothing built, or more rejects than allowed, is a failure with the reasons; an empty source is a mistake."""
    bad = tmp_path / "bad"
    bad.mkdir()
    with pytest.raises(SourceError):
        build(bad, tmp_path / "ds0", "canny")
    (bad / "a.jpg").write_bytes(b"x")
    with pytest.raises(BuildFailed, match="none of 1 inputs became a row"):
        build(bad, tmp_path / "ds1", "canny")
    (raw / "a.jpg").write_bytes(b"x")
    with pytest.raises(BuildFailed, match=r"1 of 13 inputs \(7.7%\) were rejected, more than 5.0%") as failed:
        build(raw, tmp_path / "ds2", "canny", max_rejects=0.05, **SMALL)
    assert failed.value.result.rows == {"train": 12}
    assert build(raw, tmp_path / "ds2", "canny", max_rejects=0.1, **SMALL).resumed == 13


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"resolution": 500}, r"--resolution = 500: .*multiple of 8"),
        ({"fit": "stretch"}, "--fit = 'stretch'"),
        ({"validation": 1.5}, "--validation = 1.5"),
        ({"primary": "hed"}, "primary 'hed' is not among the annotators canny"),
        ({"params": {"hed": {"low": 1}}}, "'hed', which is not among the annotators canny"),
    ],
)
def test_a_wrong_option_is_quoted(raw: Path, tmp_path: Path, options: dict[str, Any], says: str) -> None:
    """The message has the option, its value and what would be right, and nothing is written."""
    with pytest.raises(UsageError, match=says):
        build(raw, tmp_path / "ds", "canny", **options)
    assert not (tmp_path / "ds").exists()


def test_progress_counts_every_input(raw: Path, tmp_path: Path) -> None:
    """The callback sees the listing, then every input once, then the finish."""
    (raw / "bad.png").write_bytes(b"")
    seen: list[Progress] = []
    build(raw, tmp_path / "ds", "canny", progress=seen.append, **SMALL)
    assert [state.done for state in seen if state.stage == "build"] == list(range(1, 14))
    assert seen[0].stage == "list"
    assert (seen[-1].stage, seen[-1].total) == ("finish", 13)
    assert max(state.rejects for state in seen) == 1


def test_an_interrupted_build_goes_on(raw: Path, tmp_path: Path) -> None:
    """A KeyboardInterrupt in the middle leaves committed shards; the next call gives the bytes of one that never stopped."""

    def interrupt(state: Progress) -> None:
        if state.stage == "build" and state.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(raw, tmp_path / "ds", "canny", progress=interrupt, **SMALL)
    assert not (tmp_path / "ds" / "dataset_dict.json").exists()
    assert build(raw, tmp_path / "ds", "canny", workers=1, **SMALL).resumed == 5
    build(raw, tmp_path / "whole", "canny", **SMALL)
    assert tree(tmp_path / "ds") == tree(tmp_path / "whole")


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
    assert theirs.to_dict() == features(kinds)
    assert theirs.arrow_schema.equals(schema)
    assert theirs.arrow_schema.metadata == schema.metadata
