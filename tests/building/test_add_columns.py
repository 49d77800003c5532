"""Adding columns to a dataset: only they are computed, everything else keeps its bytes, at any interruption."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from datasets import load_dataset, load_from_disk
from PIL import Image
from support.datasets import raw_bytes, tree
from support.fragile import Fragile
from support.pictures import smooth

import condprep
from condprep import add_columns, annotate, build
from condprep.annotation.pictures import Annotated
from condprep.curation.rows import NO_MAP, without_map
from condprep.errors import UsageError
from condprep.runtime import own
from condprep.runtime.files import read_json

SMALL = {"resolution": 128, "shard_rows": 5, "validation": 0.3}


def test_the_new_column_is_the_map_of_the_stored_picture(raw: Path, tmp_path: Path) -> None:
    """Old columns keep their bytes and order; the new map is made from the stored picture; the first gets its own name."""
    build(raw, tmp_path / "ds", "canny", **SMALL)
    before = load_from_disk(str(tmp_path / "ds"))
    images, maps = raw_bytes(tmp_path / "ds"), raw_bytes(tmp_path / "ds", "conditioning_image")
    result = add_columns(tmp_path / "ds", "canny:random")
    assert (result.inputs, sum(result.rows.values())) == (12, 12)
    after = load_from_disk(str(tmp_path / "ds"))
    names = ["image", "text", "conditioning_image", "canny", "canny_random", "key"]
    assert after["train"].column_names[:6] == names
    assert raw_bytes(tmp_path / "ds") == images
    assert raw_bytes(tmp_path / "ds", "conditioning_image") == raw_bytes(tmp_path / "ds", "canny") == maps
    for split in ("train", "validation"):
        for name in ("key", "source", "text", "transform", "width", "empty"):
            assert after[split][name][:] == before[split][name][:]
        for row in after[split]:
            low, high = row["canny_thresholds_random"]
            edges = cv2.Canny(np.asarray(row["image"]), low, high)
            np.testing.assert_array_equal(np.asarray(row["canny_random"]) * 255, edges)


def test_the_added_column_is_that_of_a_build_with_both(raw: Path, tmp_path: Path) -> None:
    """Where pictures are stored without loss, adding gives the rows that building with both annotators gives."""
    options = SMALL | {"image_format": "png"}
    build(raw, tmp_path / "added", "canny", **options)
    add_columns(tmp_path / "added", "canny:random")
    build(raw, tmp_path / "both", ["canny", "canny:random"], **options)
    added, both = (load_from_disk(str(tmp_path / name)) for name in ("added", "both"))
    assert added["train"].features == both["train"].features
    for split in ("train", "validation"):
        for one, other in zip(added[split], both[split], strict=True):
            assert {k: v for k, v in one.items() if not hasattr(v, "size")} == {
                k: v for k, v in other.items() if not hasattr(v, "size")
            }
            np.testing.assert_array_equal(np.asarray(one["canny_random"]), np.asarray(other["canny_random"]))


def test_a_network_added_later_is_the_network_of_a_build_with_both(raw: Path, tmp_path: Path, fragile: Fragile) -> None:
    """Also where the pictures are stored as JPEG: networks look at what is stored, now and later."""
    build(raw, tmp_path / "added", "canny", **SMALL)
    add_columns(tmp_path / "added", "fragile")
    build(raw, tmp_path / "both", ["canny", "fragile"], **SMALL)
    assert raw_bytes(tmp_path / "added", "fragile") == raw_bytes(tmp_path / "both", "fragile")


@pytest.mark.slow
def test_a_process_for_each_device_makes_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    """The columns that two processes add are those of one, file by file."""
    build(raw, tmp_path / "ds", "canny", **SMALL)
    shutil.copytree(tmp_path / "ds", tmp_path / "one")
    add_columns(tmp_path / "one", "canny:random")
    assert sum(add_columns(tmp_path / "ds", "canny:random", devices="cpu,cpu").rows.values()) == 12
    assert tree(tmp_path / "ds") == tree(tmp_path / "one")


def test_killed_while_taking_their_places_files_go_on(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after each single move of a file, the next call ends with the bytes of an undisturbed one."""
    build(raw, tmp_path / "ds", "canny", **SMALL)
    shutil.copytree(tmp_path / "ds", tmp_path / "whole")
    add_columns(tmp_path / "whole", "canny:random")
    moves = 0

    class Killed(BaseException):
        pass

    def once(path: Path, target: Path) -> None:
        nonlocal moves
        if ".condprep/into" in str(path) and ".condprep/into" not in str(target):
            moves += 1
            if moves > 1:
                raise Killed
        own.move(path, target)

    monkeypatch.setattr("condprep.building.add_columns.move", once)
    for _ in range(40):
        moves = 0
        try:
            add_columns(tmp_path / "ds", "canny:random")
            break
        except Killed:
            continue
    assert tree(tmp_path / "ds") == tree(tmp_path / "whole")


def test_a_picture_that_an_annotator_rejects_keeps_its_row(raw: Path, tmp_path: Path, fragile: Fragile) -> None:
    """No row leaves the dataset: that one has no map in the new column, which is counted; the record of rejects stays."""
    from PIL import Image

    (raw / "bad.jpg").write_bytes(b"")
    Image.new("RGB", (200, 200)).save(raw / "black.png")
    build(raw, tmp_path / "ds", "canny", **SMALL)
    result = add_columns(tmp_path / "ds", "fragile")
    assert (result.inputs, sum(result.rows.values()), result.rejects) == (13, 13, {})
    assert result.without_map == {"fragile: annotator-failed": 1}
    splits = load_from_disk(str(tmp_path / "ds"))
    (black,) = [row for split in splits.values() for row in split if row["fragile"] is None]
    assert (black["source"], black["brightness"]) == ("black.png", None)
    assert black["conditioning_image"] is not None
    provenance = json.loads((tmp_path / "ds" / ".condprep" / "provenance.json").read_text())
    assert provenance["counts"]["without_map"] == {"fragile: annotator-failed": 1}
    lines = (tmp_path / "ds" / ".condprep" / "rejects.jsonl").read_text()
    assert lines.count("\n") == 1
    assert "bad.jpg" in lines


def test_parquet_and_a_second_addition(raw: Path, tmp_path: Path, fragile: Fragile) -> None:
    """Columns can be added one after another, also to a Parquet dataset, and their provenance is all there."""
    build(raw, tmp_path / "ds", "canny", format="parquet", **SMALL)
    add_columns(tmp_path / "ds", "canny:random")
    add_columns(tmp_path / "ds", "fragile")
    rows = load_dataset(str(tmp_path / "ds"), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows.column_names[:6] == ["image", "text", "conditioning_image", "canny", "canny_random", "fragile"]
    made = read_json(tmp_path / "ds" / ".condprep" / "provenance.json")["annotators"]
    assert [annotator["column"] for annotator in made] == ["canny", "canny_random", "fragile"]
    assert not (tmp_path / "ds" / ".condprep" / "into").exists()


def test_the_same_addition_again_has_nothing_to_do(raw: Path, tmp_path: Path) -> None:
    """A call that ended without a word may be made again: nothing changes. With other settings, the column is in the way."""
    build(raw, tmp_path / "ds", "canny", **SMALL)
    added, before = add_columns(tmp_path / "ds", "canny:random"), tree(tmp_path / "ds")
    (tmp_path / "ds" / ".condprep" / "into" / ".condprep").mkdir(parents=True)
    again = add_columns(tmp_path / "ds", "canny:random")
    assert (again.inputs, again.rows, again.resumed) == (added.inputs, added.rows, added.inputs)
    assert tree(tmp_path / "ds") == before
    assert not (tmp_path / "ds" / ".condprep" / "into").exists()
    with pytest.raises(UsageError, match="has a column 'canny_random' already"):
        add_columns(tmp_path / "ds", "canny:random", batch_size=3)


@pytest.mark.parametrize("how", ["by group", "replaced", "merged", "test"])
def test_no_row_changes_its_split(raw: Path, tmp_path: Path, how: str) -> None:
    """Every row stays where it lies, whatever put it there: a split by group, a file that was replaced, a merge, a split `test`."""
    ds = tmp_path / "ds"
    build(raw, ds, "canny", **SMALL)
    if how == "by group":
        condprep.split(ds, 0.6, by="group")
    elif how == "replaced":
        for number, path in enumerate(sorted(raw.rglob("*.png"))):
            Image.fromarray(smooth(90, 90, number)).save(path)
        build(raw, ds, "canny", append=True, replace=True, **SMALL)
    elif how == "merged":
        build(raw, tmp_path / "whole", "canny", **SMALL | {"validation": 0})
        condprep.merge([ds, tmp_path / "whole"], tmp_path / "both")
        ds = tmp_path / "both"
    else:
        (ds / "validation").rename(ds / "test")
        for name in ("done.json", "shards.json"):
            path = ds / ".condprep" / name
            path.write_text(path.read_text().replace("validation", "test"))
        (ds / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    before = {name: part["source"][:] for name, part in load_from_disk(str(ds)).items()}
    assert set(before) == {"train", "test" if how == "test" else "validation"}
    result = add_columns(ds, "gray")
    after = load_from_disk(str(ds))
    assert {name: part["source"][:] for name, part in after.items()} == before
    assert result.rows == {name: len(part) for name, part in before.items()}


def test_what_cannot_be_added_to(raw: Path, tmp_path: Path) -> None:
    """No dataset, a column that is there, padded pictures: each is said with its remedy."""
    with pytest.raises(UsageError, match="no finished dataset"):
        add_columns(raw, "canny")
    build(raw, tmp_path / "ds", "canny", **SMALL)
    with pytest.raises(UsageError, match="has a column 'canny' already"):
        add_columns(tmp_path / "ds", "canny")
    build(raw, tmp_path / "pad", "canny", fit="pad", **SMALL)
    with pytest.raises(UsageError, match="--fit pad"):
        add_columns(tmp_path / "pad", "canny:random")


def test_each_column_remembers_its_own_parameters(raw: Path, tmp_path: Path) -> None:
    """What was set for the first column does not reach the added one, and `like` repeats both."""
    build(raw, tmp_path / "ds", "canny", params={"canny": {"low": 50}}, fit="keep")
    add_columns(tmp_path / "ds", "canny:random")
    rows = load_from_disk(str(tmp_path / "ds"))["train"]
    (result,) = annotate([raw / rows[0]["source"]], like=tmp_path / "ds")
    assert isinstance(result, Annotated)
    for column in ("canny", "canny_random"):
        np.testing.assert_array_equal(
            np.asarray(result.maps[column].convert("L")), np.asarray(rows[0][column].convert("L"))
        )


def test_rows_without_a_map_are_counted_on(tmp_path: Path, fragile: Fragile) -> None:
    """Curated, split or merged, a dataset says how many of its rows have no map, by their codes, and its card does, too."""
    (tmp_path / "raw").mkdir()
    for name, pixels in (("1", smooth(64, 64)), ("2", smooth(64, 64) * 0), ("3", smooth(64, 64) * 0)):
        Image.fromarray(pixels).save(tmp_path / "raw" / f"{name}.png")
    build(tmp_path / "raw", tmp_path / "ds", "canny", resolution=64)
    add_columns(tmp_path / "ds", "fragile")
    condprep.curate(tmp_path / "ds", tmp_path / "once", ["duplicates"])
    condprep.curate(tmp_path / "ds", tmp_path / "none", ["flat"])
    condprep.split(tmp_path / "once", 0.5)
    condprep.merge([tmp_path / "ds", tmp_path / "once"], tmp_path / "both")
    for name, rows in (("once", 1), ("none", 0), ("both", 3)):
        counts = read_json(tmp_path / name / ".condprep" / "provenance.json")["counts"]
        assert counts["without_map"] == read_json(tmp_path / name / ".condprep" / "done.json")["without_map"]
        assert counts["without_map"] == ({"fragile: annotator-failed": rows} if rows else {})
        said = f"- {rows} rows without a map in `fragile`: `annotator-failed`"
        assert (said in (tmp_path / name / "README.md").read_text()) == bool(rows)


def test_rows_of_several_codes_of_which_some_are_gone() -> None:
    """Which of them are left nobody knows any more: they are counted by no code, and all others by theirs."""
    before = {"a: annotator-failed": 2, "a: annotator-rejected": 1, "b: annotator-failed": 5}
    counted = Counter({f"a: {NO_MAP}": 3, f"b: {NO_MAP}": 4})
    assert without_map(counted, before) == before | {"b: annotator-failed": 4}
    assert without_map(Counter({f"a: {NO_MAP}": 2}), before) == {f"a: {NO_MAP}": 2}
