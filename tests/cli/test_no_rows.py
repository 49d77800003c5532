"""Datasets without rows: each verb says so, by name, and makes nothing of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image
from support.command import Command
from support.pictures import encoded, smooth

COLUMNS = ("image", "conditioning_image")


def rows(number: int) -> Dataset:
    stored = {"bytes": encoded(smooth(64, 64, number), "PNG"), "path": None}
    return Dataset.from_dict(dict.fromkeys(COLUMNS, [stored] * number), Features(dict.fromkeys(COLUMNS, Image())))


@pytest.mark.parametrize("form", ["saved", "splits", "parquet"])
def test_a_dataset_without_rows_is_said_to_have_none(command: Command, tmp_path: Path, form: str) -> None:
    """Exit code 2 and a line that says it, for whatever has to read rows; no output is begun."""
    place = tmp_path / ("ds.parquet" if form == "parquet" else "ds")
    if form == "parquet":
        rows(0).to_parquet(place)
    else:
        (rows(0) if form == "saved" else DatasetDict(train=rows(0), test=rows(0))).save_to_disk(place)
    inspected = command("inspect", place)
    assert (inspected.code, ("is a file" if form == "parquet" else "without rows") in inspected.err) == (2, True)
    for asked in (
        ("verify", place, "--checks", "structure"),
        ("curate", place, "--drop", "flat", "--out", tmp_path / "out"),
        ("merge", place, place, "--out", tmp_path / "out"),
        ("build", place, "--out", tmp_path / "out"),
        ("build", place, "-a", "canny", "--image-column", "image", "--out", tmp_path / "out"),
    ):
        ended = command(*asked)
        assert (ended.code, ended.out) == (2, ""), asked
        assert any(word in ended.err for word in ("without rows", "has 0 rows", "has rows", "no pictures")), asked
    assert not (tmp_path / "out").exists()


def test_a_split_without_rows_hides_no_other(command: Command, tmp_path: Path) -> None:
    """`load_from_disk` of datasets 5.2 fails where a split is empty; those with rows are a source all the same."""
    DatasetDict(train=rows(2), test=rows(0)).save_to_disk(tmp_path / "ds")
    how = ("-a", "canny", "--image-column", "image", "--resolution", 64, "--out", tmp_path / "out", "--json")
    ended = command("build", tmp_path / "ds", *how)
    assert (ended.code, ended.json["rows"]) == (0, {"train": 2})
    assert "'test' is not among the splits" in command("build", tmp_path / "ds", "--split", "test", *how).err


def test_a_split_that_leaves_nothing_to_train_on_says_so(command: Command, tmp_path: Path) -> None:
    """All rows held out: done as asked, and said."""
    command("build", rows_in(tmp_path / "raw"), "-a", "canny", "--resolution", 64, "--out", tmp_path / "ds")
    ended = command("split", tmp_path / "ds", "--validation", 0.99)
    assert (ended.code, "no rows are left to train on" in ended.err) == (0, True)


def rows_in(folder: Path) -> Path:
    folder.mkdir()
    (folder / "1.png").write_bytes(encoded(smooth(64, 64), "PNG"))
    return folder
