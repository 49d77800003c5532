"""`--append` to what a listing, tars, zips or tables hold: what is new is added once, and no input is taken for another one."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.curated import rows_of
from support.datasets import tree
from support.pictures import encoded, smooth
from support.tars import tar

import condprep
from condprep import build
from condprep.errors import DatasetError

HOW: dict[str, Any] = {"resolution": 64, "shard_rows": 2, "workers": 1}


def picture(number: int) -> bytes:
    return encoded(smooth(64, 64, number), "PNG")


def listed(folder: Path, numbers: Iterable[int], _: str) -> None:
    with (folder / "metadata.jsonl").open("a") as listing:
        for number in numbers:
            (folder / f"{number}.png").write_bytes(picture(number))
            listing.write(json.dumps({"file_name": f"{number}.png", "text": str(number)}) + "\n")


def tars(folder: Path, numbers: Iterable[int], name: str) -> None:
    (folder / f"{name}.tar").write_bytes(tar(*((f"{number}.png", picture(number)) for number in numbers)))


def zips(folder: Path, numbers: Iterable[int], name: str) -> None:
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as file:
        for number in numbers:
            file.writestr(f"{number}.png", picture(number))


def pairs(folder: Path, numbers: Iterable[int], name: str) -> None:
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = []
    for number in numbers:
        edges = encoded(cv2.Canny(smooth(64, 64, number), 10, 20), "PNG")
        rows.append({"image": {"bytes": picture(number), "path": None}, "canny": {"bytes": edges, "path": None}})
    pq.write_table(pa.Table.from_pylist(rows, pa.schema({"image": image, "canny": image})), folder / f"{name}.parquet")


Put = Callable[[Path, Iterable[int], str], None]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def pictures(dataset: Path) -> list[bytes]:
    return [row["image"]["bytes"] for row in rows_of(dataset)]


@pytest.mark.parametrize("put", [listed, tars, zips])
def test_what_came_since_is_added_once(raw: Path, tmp_path: Path, put: Put) -> None:
    """Pictures that a listing names since, further tars and further zips go behind the rows that are there, which keep their bytes;
    both commands then find nothing to do."""
    put(raw, range(3), "b")
    build(raw, tmp_path / "ds", "canny", **HOW)
    before = [path.read_bytes() for path in sorted((tmp_path / "ds" / "train").glob("*.arrow"))]
    put(raw, range(3, 6), "a")
    with pytest.raises(DatasetError, match=r"inputs changed .*: 3 new .* with append=True"):
        build(raw, tmp_path / "ds", "canny", **HOW)
    result = build(raw, tmp_path / "ds", "canny", append=True, **HOW)
    assert (result.rows, result.notes) == ({"train": 6}, {})
    assert pictures(tmp_path / "ds") == [picture(number) for number in range(6)]
    after = [path.read_bytes() for path in sorted((tmp_path / "ds" / "train").glob("*.arrow"))]
    assert after[: len(before)] == before
    files = tree(tmp_path / "ds")
    for how in ({}, {"append": True}):
        assert build(raw, tmp_path / "ds", "canny", **how, **HOW).resumed == 6
        assert tree(tmp_path / "ds") == files


def test_a_listing_that_changed_is_followed(raw: Path, tmp_path: Path) -> None:
    """With `replace`, what a listing names no more goes, and a caption that changed comes; what is new is added."""
    listed(raw, range(3), "")
    build(raw, tmp_path / "ds", "canny", **HOW)
    lines = (raw / "metadata.jsonl").read_text().splitlines()
    (raw / "metadata.jsonl").write_text(lines[1].replace('"1"', '"one"') + "\n" + lines[2] + "\n")
    listed(raw, [3], "")
    build(raw, tmp_path / "ds", "canny", append=True, replace=True, **HOW)
    assert [(row["source"], row["text"]) for row in rows_of(tmp_path / "ds")] == [
        ("1.png", "one"),
        ("2.png", "2"),
        ("3.png", "3"),
    ]
    assert build(raw, tmp_path / "ds", "canny", **HOW).resumed == 3


def test_rows_that_are_called_by_number_are_not_mistaken(raw: Path, tmp_path: Path) -> None:
    """A table before others gives their rows other numbers: no picture is lost or added again, by a refusal or by `replace`; a table
    behind them is added."""
    pairs(raw, range(3), "b")
    build(raw, tmp_path / "ds", **HOW)
    pairs(raw, range(3, 5), "c")
    build(raw, tmp_path / "ds", append=True, **HOW)
    assert pictures(tmp_path / "ds") == [picture(number) for number in range(5)]
    pairs(raw, [5], "a")
    before = tree(tmp_path / "ds")
    with pytest.raises(DatasetError, match=r"'train:0' is another row .*condprep merge"):
        build(raw, tmp_path / "ds", append=True, **HOW)
    assert tree(tmp_path / "ds") == before
    build(raw, tmp_path / "ds", append=True, replace=True, **HOW)
    assert sorted(pictures(tmp_path / "ds")) == sorted(picture(number) for number in range(6))


def test_a_map_that_a_listing_puts_before_others_is_not_mistaken(raw: Path, tmp_path: Path) -> None:
    """Rows of one picture in a listing of pairs are called by their number, too."""
    (raw / "image.png").write_bytes(picture(0))
    rows = []
    for number in range(3):
        (raw / f"{number}.png").write_bytes(encoded(cv2.Canny(smooth(64, 64, 0), 10 + number, 20 + number), "PNG"))
        rows.append(json.dumps({"source": f"{number}.png", "target": "image.png", "prompt": ""}))
    (raw / "prompt.json").write_text("\n".join(rows[:2]))
    how = HOW | {"image_column": "target", "condition_column": "source"}
    build(raw, tmp_path / "ds", **how)
    (raw / "prompt.json").write_text("\n".join([rows[2], *rows[:2]]))
    with pytest.raises(DatasetError, match="is another row"):
        build(raw, tmp_path / "ds", append=True, **how)
    (raw / "prompt.json").write_text("\n".join(rows))
    assert build(raw, tmp_path / "ds", append=True, **how).rows == {"train": 3}


def test_tars_that_are_called_otherwise_are_not_added_again(raw: Path, tmp_path: Path) -> None:
    """A tar in another folder gives all others longer names: that is refused, and what is named instead works."""
    (raw / "x").mkdir()
    tars(raw / "x", range(2), "one")
    build(raw, tmp_path / "ds", "canny", **HOW)
    (raw / "y").mkdir()
    tars(raw / "y", range(2, 4), "two")
    with pytest.raises(DatasetError, match=r"'one.tar' is called otherwise by now.*condprep merge"):
        build(raw, tmp_path / "ds", "canny", append=True, **HOW)
    build(raw / "y", tmp_path / "more", "canny", **HOW)
    condprep.merge([tmp_path / "ds", tmp_path / "more"], tmp_path / "both")
    assert pictures(tmp_path / "both") == [picture(number) for number in range(4)]


def test_rows_of_a_dataset_cannot_be_told_apart(raw: Path, tmp_path: Path) -> None:
    """Pictures in Parquet are called by number, under one mark of all: refused with what works, once there are others."""
    pairs(raw, range(2), "a")
    build(raw, tmp_path / "ds", "canny", **HOW, image_column="image", source_kind="huggingface")
    before = tree(tmp_path / "ds")
    pairs(raw, range(2, 4), "b")
    with pytest.raises(DatasetError, match=r"which of its rows are new cannot be told.*condprep merge"):
        build(raw, tmp_path / "ds", "canny", append=True, **HOW, image_column="image", source_kind="huggingface")
    assert tree(tmp_path / "ds") == before


def test_killed_while_it_is_built_the_same_command_goes_on(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of what is new that were finished are not built again, though the source is another than the dataset's."""
    tars(raw, range(2), "a")
    build(raw, tmp_path / "ds", "canny", **HOW)
    tars(raw, range(2, 6), "b")
    shutil.copytree(tmp_path / "ds", tmp_path / "whole")
    build(raw, tmp_path / "whole", "canny", append=True, **HOW)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("condprep.building.append.Addition.join", stopped)
        with pytest.raises(KeyboardInterrupt):
            build(raw, tmp_path / "ds", "canny", append=True, **HOW)
    seen = set[tuple[str, int]]()
    build(raw, tmp_path / "ds", "canny", append=True, progress=lambda one: seen.add((one.stage, one.done)), **HOW)
    assert seen == {("build", 4), ("finish", 0)}
    assert tree(tmp_path / "ds") == tree(tmp_path / "whole")
