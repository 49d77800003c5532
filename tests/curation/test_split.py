"""`condprep split`: held-out rows of a finished dataset are those of a build that holds out the same share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset, load_from_disk
from PIL import Image
from support.command import Command
from support.datasets import tree
from support.pictures import smooth

from condprep import build, split, verify
from condprep.dataset.splits import group_of
from condprep.errors import DatasetError, UsageError
from condprep.runtime.files import read_json

SMALL: dict[str, Any] = {"resolution": 64, "shard_rows": 5}


def rows(dataset: Path) -> dict[str, list[dict[str, Any]]]:
    """Every row with all its columns, pictures as bytes, by split."""
    return {name: part.with_format("arrow")[:].to_pylist() for name, part in load_from_disk(str(dataset)).items()}


@pytest.fixture
def ds(raw: Path, tmp_path: Path) -> Path:
    """A dataset of 12 rows, none held out, with a reject."""
    (raw / "broken.jpg").write_bytes(b"no picture")
    build(raw, tmp_path / "ds", "canny", **SMALL)
    return tmp_path / "ds"


def test_rows_are_held_out_as_if_it_had_been_built_so(ds: Path, raw: Path, tmp_path: Path) -> None:
    """The splits are those of a build with that share, row for row and byte for byte, and its command finds them done."""
    condprep_rejects = (ds / ".condprep" / "rejects.jsonl").read_bytes()
    build(raw, tmp_path / "other", "canny", validation=0.4, **SMALL)
    result = split(ds, 0.4)
    assert rows(ds) == rows(tmp_path / "other")
    assert 0 < result.rows["validation"] == result.moved < 12
    assert (ds / ".condprep" / "rejects.jsonl").read_bytes() == condprep_rejects
    again = build(raw, ds, "canny", validation=0.4, **SMALL)
    assert (again.rows, again.rejects, again.resumed) == (result.rows, {"unknown-format": 1}, 13)
    assert read_json(ds / ".condprep" / "provenance.json")["counts"]["rows"] == result.rows
    assert verify(ds, checks=["structure"]).rows == 12


def test_a_picture_keeps_its_split(ds: Path) -> None:
    """A larger share holds out the same rows and more; the same one again changes nothing; none brings all back."""
    whole = {row["key"]: row for row in rows(ds)["train"]}
    split(ds, 0.3)
    some, before = {row["key"] for row in rows(ds)["validation"]}, tree(ds)
    assert split(ds, 0.3).moved == 0
    assert tree(ds) == before
    split(ds, 0.7)
    assert some < {row["key"] for row in rows(ds)["validation"]}
    assert dict(split(ds, 0).rows) == {"train": 12}
    assert {row["key"]: row for row in rows(ds)["train"]} == whole
    assert not (ds / "validation").exists()


def test_groups_stay_together(ds: Path) -> None:
    """By group, the pictures of a folder are all held out, or none of them is."""
    split(ds, 0.6, by="group")
    found = {name: {row["source"].rpartition("/")[0] for row in part} for name, part in rows(ds).items()}
    assert found["train"] | found["validation"] == {"group0", "group1", "group2"}
    assert not found["train"] & found["validation"]


def test_what_is_added_goes_with_its_group(ds: Path, raw: Path, tmp_path: Path) -> None:
    """A dataset that was split by group is that of a build which holds groups out, and so are rows that are added: none lies on
    both sides. Its build's command without that says what differs."""
    split(ds, 0.6, by="group")
    how: dict[str, Any] = {"validation": 0.6, "validation_by": "group", **SMALL}
    build(raw, tmp_path / "other", "canny", **how)
    assert rows(ds) == rows(tmp_path / "other")
    for number in range(3):
        Image.fromarray(smooth(80, 80, number)).save(raw / f"group{number}" / "new.png")
    with pytest.raises(DatasetError, match=r"options\.validation_by: 'group' there, None now"):
        build(raw, ds, "canny", append=True, **SMALL)
    assert build(raw, ds, "canny", append=True, **how).changes == {"added": 3}
    found = {name: {row["source"].rpartition("/")[0] for row in part} for name, part in rows(ds).items()}
    assert not found["train"] & found["validation"]
    split(ds, 0.6)
    assert build(raw, ds, "canny", append=True, validation=0.6, **SMALL).changes == {"added": 0}


def test_a_build_holds_groups_out_where_there_are_several(raw: Path, tmp_path: Path, command: Command) -> None:
    """Of pictures in one folder it says so, and leaves nothing behind; the command takes the option, too."""
    how = (
        "-a",
        "canny",
        "-o",
        tmp_path / "ds",
        "--resolution",
        "64",
        "--validation",
        "0.6",
        "--validation-by",
        "group",
    )
    ended = command("build", raw / "group1", *how)
    assert ended.code == 2
    assert "come from one folder or tar" in ended.err
    assert command("build", raw, *how).code == 0
    assert set(rows(tmp_path / "ds")) == {"train", "validation"}


@pytest.mark.parametrize(
    ("source", "group"),
    [
        ("a.jpg", ""),
        ("clip/a.jpg", "clip"),
        ("x/clip#1/a.jpg", "x/clip#1"),
        ("sub/x.tar#a.jpg", "sub/x.tar#"),
        ("x.tar#clip/a.jpg", "x.tar#clip"),
    ],
)
def test_a_group_is_a_folder_or_a_tar(source: str, group: str) -> None:
    """Of files their folder, of members the tar and the folder in it."""
    assert group_of(source) == group


def test_rejects_are_not_retried_into_files_that_are_others_now(ds: Path, raw: Path) -> None:
    """Also where all rows came back to one split, in another order: the shards of the build are not those of its files."""
    for share in (0.4, 0):
        split(ds, share)
    before = tree(ds)
    with pytest.raises(DatasetError, match="start afresh with overwrite=True"):
        build(raw, ds, "canny", retry_rejects="all", **SMALL)
    assert tree(ds) == before


def test_parquet_keeps_its_form(raw: Path, tmp_path: Path) -> None:
    """A dataset of Parquet files is one again, and `load_dataset` finds both splits."""
    build(raw, tmp_path / "ds", "canny", format="parquet", **SMALL)
    result = split(tmp_path / "ds", 0.4)
    found = load_dataset(str(tmp_path / "ds"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in found.items()} == dict(result.rows)
    assert set(found) == {"train", "validation"}


def test_what_cannot_be_split(ds: Path, raw: Path, tmp_path: Path) -> None:
    """A share that is none, a folder that is no dataset of condprep, one group: each is said with its remedy."""
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="must be a share, 0 to below 1"):
            split(ds, share)
    with pytest.raises(UsageError, match=r"no finished dataset of condprep; make one of it with `condprep build`"):
        split(raw, 0.1)
    with pytest.raises(UsageError, match="by = 'folder': it must be key or group"):
        split(ds, 0.1, by="folder")  # type: ignore[arg-type]
    for path in (raw / "group1", raw / "group2"):
        shutil.rmtree(path)
    build(raw, tmp_path / "one", "canny", **SMALL, source_kind="folder")
    (raw / "broken.jpg").unlink()
    with pytest.raises(UsageError, match="come from one folder or tar; split them by key"):
        split(tmp_path / "one", 0.5, by="group")


def test_a_file_of_rows_that_is_not_ours_is_named(ds: Path) -> None:
    """What somebody has put beside the rows of a build is neither moved nor counted: nothing is changed."""
    strange = ds / "train" / "data-00098-of-00099.arrow"
    shutil.copy(next((ds / "train").glob("*.arrow")), strange)
    with pytest.raises(DatasetError, match=r"data-00098-of-00099\.arrow is no file of the build .*; move it elsewhere"):
        split(ds, 0.5)
    strange.unlink()
    assert len(rows(ds)["train"]) == 12


def test_the_command(command: Command, ds: Path, raw: Path, tmp_path: Path) -> None:
    """A build that holds nothing out says with which command that is done, and that command does it."""
    ended = command("build", raw, "-a", "canny", "-o", tmp_path / "fresh", "--resolution", "64")
    assert f"condprep split {tmp_path / 'fresh'} --validation 0.34" in ended.err
    ended = command("split", ds, "--validation", "0.4")
    assert ended.code == 0
    assert "validation " in ended.out
    assert command("split", ds, "--validation", "0.4", "--json").json["moved"] == 0
    assert command("split", ds, "--validation", "2").code == 2


def test_a_share_of_few_rows_that_holds_out_none_is_said(ds: Path, command: Command) -> None:
    """Each key decides for itself: where no row falls into a share, a larger one is named, and it holds some out."""
    said = command("split", ds, "--validation", "0.001").out
    assert "moved\tnone: no key of 12 rows falls into that share; a larger one does, as --validation 0.34\n" in said
    assert command("split", ds, "--validation", "0.34").code == 0
    assert "validation" in rows(ds)
