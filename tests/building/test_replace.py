"""`--append --replace`: changed rows are made anew in their places, gone ones are taken away, all others keep their bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.pictures import smooth

import condprep
from condprep import build
from condprep.errors import DatasetError, UsageError

HOW: dict[str, Any] = {"resolution": 64, "shard_rows": 4, "workers": 2, "validation": 0.3}
BROKEN = "05.png"


def picture(path: Path, seed: int) -> None:
    Image.fromarray(smooth(64, 64, seed)).save(path)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small pictures, one of them broken, in `raw`, and the dataset of them."""
    folder = tmp_path_factory.mktemp("before")
    (folder / "raw").mkdir()
    for number in range(12):
        picture(folder / "raw" / f"{number:02d}.png", number)
    (folder / "raw" / BROKEN).write_bytes(b"no picture")
    build(folder / "raw", folder / "ds", "canny", **HOW)
    return folder


@pytest.fixture
def place(before: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(before, tmp_path / "place"))


def change(place: Path, *, changed: str = "", gone: str = "", new: str = "") -> None:
    """Other pictures under these names, none under those, and new ones; names are numbers."""
    for name in changed.split():
        picture(place / "raw" / f"{name}.png", 100 + int(name))
    for name in gone.split():
        (place / "raw" / f"{name}.png").unlink()
    for name in new.split():
        picture(place / "raw" / f"{name}.png", 200 + int(name))


def table(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    with pa.memory_map(str(path)) as mapped:
        return pa.ipc.open_stream(mapped).read_all()


def rows(dataset: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """source -> split and columns, in the dataset's order."""
    done = json.loads((dataset / ".condprep" / "done.json").read_text())
    found = {}
    for file in done["files"]:
        of_file = table(dataset / file["name"]).to_pylist()
        assert len(of_file) == file["rows"]
        found |= {row["source"]: (file["split"], row) for row in of_file}
    return found


def untouched(dataset: Path, names: set[str]) -> list[bytes]:
    """The data files that have no row of these sources."""
    done = json.loads((dataset / ".condprep" / "done.json").read_text())
    paths = [dataset / file["name"] for file in done["files"]]
    return [path.read_bytes() for path in paths if not names & set(table(path)["source"].to_pylist())]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_what_changed_is_made_anew_where_it_was(place: Path, form: str) -> None:
    """Rows are those of a build of everything; what stays keeps its place and split, files without changes their bytes."""
    how = HOW | {"format": form}
    if form == "parquet":
        build(place / "raw", place / "ds", "canny", overwrite=True, **how)
    old, same = rows(place / "ds"), untouched(place / "ds", {"01.png", "02.png", "03.png"})
    change(place, changed="01 02", gone="03", new="20 30")
    result = build(place / "raw", place / "ds", "canny", append=True, replace=True, **how)
    assert result.changes == {"added": 2, "replaced": 2, "removed": 1}
    build(place / "raw", place / "whole", "canny", **how)
    new, whole = rows(place / "ds"), rows(place / "whole")
    assert {name: row for name, (_, row) in new.items()} == {name: row for name, (_, row) in whole.items()}
    stayed = [name for name in old if name != "03.png"]
    assert [name for name in new if name in old] == stayed
    assert [new[name][0] for name in stayed] == [old[name][0] for name in stayed]
    assert same
    assert set(same) <= set(untouched(place / "ds", set()))
    inputs, counts = result.inputs, json.loads((place / "ds/.condprep/done.json").read_text())
    assert inputs == 13 == sum(counts["rows"].values()) + sum(counts["rejects"].values())
    expected = json.loads((place / "whole/.condprep/done.json").read_text())
    for name in ("bytes", "enlarged", "untouched", "without_caption", "rejects"):
        assert counts[name] == expected[name]


def test_once_replaced_there_is_nothing_left_to_do(place: Path) -> None:
    """The same command again, and the plain one, find the dataset finished; a retry knows what each shard holds."""
    change(place, changed="01 09", gone="04 06 07", new="20")
    build(place / "raw", place / "ds", "canny", append=True, replace=True, **HOW)
    found = files(place / "ds")
    for how in ({"append": True, "replace": True}, {"append": True}, {}):
        assert build(place / "raw", place / "ds", "canny", **how, **HOW).resumed == 10
        assert files(place / "ds") == found
    picture(place / "raw" / BROKEN, 5)
    assert build(place / "raw", place / "ds", "canny", retry_rejects="all", **HOW).rejects == {}
    build(place / "raw", place / "whole", "canny", **HOW)
    assert {name: row for name, (_, row) in rows(place / "ds").items()} == {
        name: row for name, (_, row) in rows(place / "whole").items()
    }


def test_rejects_come_and_go(place: Path) -> None:
    """A row whose picture is broken now becomes a reject; a reject whose picture is whole now becomes a row, behind the others."""
    (place / "raw" / "08.png").write_bytes(b"broken now")
    change(place, changed=BROKEN.removesuffix(".png"))
    result = build(place / "raw", place / "ds", "canny", append=True, replace=True, **HOW)
    listed = [json.loads(line)["source"] for line in (place / "ds/.condprep/rejects.jsonl").read_text().splitlines()]
    assert listed == ["08.png"]
    assert (result.inputs, sum(result.rejects.values())) == (12, 1)
    assert result.changes == {"added": 1, "replaced": 0, "removed": 1}
    assert "08.png" not in rows(place / "ds")
    named = {kind: noted["names"] for kind, noted in result.notes.items()}
    assert named == {
        "changed since it became a row, and replaced": ["08.png"],
        "rejected before, changed since, and tried again": [BROKEN],
    }


def test_a_replaced_row_is_not_moved_by_a_retry(place: Path) -> None:
    """Its shard is not built again where that would bring it into the split of its new key; what is said instead does it."""
    change(place, changed="00 01 02 03 04 06 07")
    build(place / "raw", place / "ds", "canny", append=True, replace=True, **HOW)
    before = rows(place / "ds")
    picture(place / "raw" / BROKEN, 5)
    with pytest.raises(DatasetError, match="was replaced and kept its split"):
        build(place / "raw", place / "ds", "canny", retry_rejects="all", **HOW)
    assert rows(place / "ds") == before
    build(place / "raw", place / "ds", "canny", append=True, replace=True, **HOW)
    after = rows(place / "ds")
    assert {source: after[source] for source in before} == before
    assert after.keys() - before.keys() == {BROKEN}


def test_each_map_of_a_listed_picture_is_a_row_of_its_own(tmp_path: Path) -> None:
    """A listing may name a picture with several maps: rows have names of their own, so that nothing is found to do, what has come
    is added, and what changed is replaced by what it is now."""
    raw = tmp_path / "raw"
    raw.mkdir()
    listed = []
    for name, seed, low in (("a", 1, 20), ("b", 2, 20), ("a", 1, 60)):
        pixels = cv2.resize(
            np.random.default_rng(seed).integers(0, 255, (20, 20, 3), np.uint8),
            (100, 100),
            interpolation=cv2.INTER_NEAREST,
        )
        Image.fromarray(pixels).save(raw / f"{name}.png")
        Image.fromarray(cv2.Canny(pixels, 5 * low, 10 * low)).save(raw / f"{name}-{low}.png")
        listed.append({"source": f"{name}-{low}.png", "target": f"{name}.png", "prompt": f"{name} {low}"})

    def imported(**how: bool) -> dict[str, tuple[str, bytes]]:
        (raw / "prompt.json").write_text("\n".join(map(json.dumps, listed)))
        result = build(raw, tmp_path / "ds", workers=1, **how)
        assert not result.rejects
        assert result.changes == changes
        return {
            name: (row["text"], row["conditioning_image"]["bytes"]) for name, (_, row) in rows(tmp_path / "ds").items()
        }

    changes: dict[str, int] = {}
    found = imported()
    maps = {
        f"{name}-{low}": (raw / f"{name}-{low}.png").read_bytes() for name, low in (("a", 20), ("b", 20), ("a", 60))
    }
    expected = {"a.png": ("a 20", maps["a-20"]), "b.png": ("b 20", maps["b-20"]), "a.png#2": ("a 60", maps["a-60"])}
    assert found == expected
    changes = {"added": 0}
    assert imported(append=True, replace=True) == expected
    listed[2]["prompt"] = "changed"
    listed.append({"source": "a-20.png", "target": "a.png", "prompt": "third"})
    changes = {"added": 1, "replaced": 1, "removed": 0}
    expected |= {"a.png#2": ("changed", maps["a-60"]), "a.png#3": ("third", maps["a-20"])}
    assert imported(append=True, replace=True) == expected


def test_what_is_counted_is_that_of_a_new_build(tmp_path: Path) -> None:
    """Also of pictures behind whose end something lies, which do not hold their source's own bytes: replaced, and taken away."""
    (tmp_path / "raw").mkdir()
    for number in range(4):
        picture(path := tmp_path / "raw" / f"{number}.png", number)
        path.write_bytes(path.read_bytes() + b"more" * (number % 2))
    assert build(tmp_path / "raw", tmp_path / "ds", "canny", fit="keep").untouched == 2
    picture(tmp_path / "raw" / "1.png", 9)
    (tmp_path / "raw" / "3.png").unlink()
    result = build(tmp_path / "raw", tmp_path / "ds", "canny", fit="keep", append=True, replace=True)
    assert result.untouched == build(tmp_path / "raw", tmp_path / "new", "canny", fit="keep").untouched == 3


def test_rejects_of_any_name_stay_rejects(place: Path) -> None:
    """A separator of Unicode in a name ends no line of rejects.jsonl: rows are replaced beside such a reject."""
    for name in ("a\u2028b.png", "c\x85d.png"):
        (place / "raw" / name).write_bytes(b"no picture")
    build(place / "raw", place / "ds", "canny", append=True, **HOW)
    change(place, changed="03")
    result = build(place / "raw", place / "ds", "canny", append=True, replace=True, **HOW)
    assert (result.changes["replaced"], result.rejects) == (1, {"unknown-format": 3})
    lines = (place / "ds" / ".condprep" / "rejects.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["source"] for line in lines] == [BROKEN, "a\u2028b.png", "c\x85d.png"]


def test_a_replaced_row_keeps_its_split(place: Path) -> None:
    """A picture's key says where its row would lie: where another row of it lay, it takes that one's place and split."""
    condprep.split(place / "ds", 0.6)
    old = rows(place / "ds")
    change(place, changed=" ".join(name.removesuffix(".png") for name in old if name != "00.png"))
    result = build(place / "raw", place / "ds", "canny", append=True, replace=True, **HOW | {"validation": 0.6})
    assert result.changes == {"added": 0, "replaced": 10, "removed": 0}
    assert [(name, split) for name, (split, _) in rows(place / "ds").items()] == [(n, s) for n, (s, _) in old.items()]


def test_a_split_without_rows_is_gone(place: Path) -> None:
    """Where all held-out pictures are gone, the dataset has no such split, and loads as one without it."""
    from datasets import load_from_disk

    held_out = [name for name, (split, _) in rows(place / "ds").items() if split == "validation"]
    change(place, gone=" ".join(name.removesuffix(".png") for name in held_out))
    result = build(place / "raw", place / "ds", "canny", append=True, replace=True, **HOW)
    assert result.changes["removed"] == len(held_out) > 0
    assert not (place / "ds" / "validation").exists()
    assert list(load_from_disk(str(place / "ds"))) == ["train"]
    assert condprep.verify(place / "ds", checks=["structure"]).rows == result.rows["train"]


def test_what_cannot_be_is_refused_and_nothing_changes(place: Path) -> None:
    """Without --append, for tars, with another folder, and where nothing would be left to train on."""
    found = files(place / "ds")
    with pytest.raises(UsageError, match="give append=True as well"):
        build(place / "raw", place / "ds", "canny", replace=True, **HOW)
    with pytest.raises(UsageError, match="cannot do that with tars"):
        build(place / "raw", place / "ds", "canny", append=True, replace=True, format="webdataset", **HOW)
    (place / "other").mkdir()
    picture(place / "other" / "x.png", 1)
    with pytest.raises(DatasetError, match=r"has none of the 12 inputs of .*ds any more"):
        build(place / "other", place / "ds", "canny", append=True, replace=True, **HOW)
    for path in (place / "raw").iterdir():
        if path.name != BROKEN:
            path.unlink()
    with pytest.raises(DatasetError, match=r"no row of the training split of .*ds would be left"):
        build(place / "raw", place / "ds", "canny", append=True, replace=True, **HOW)
    assert {path: data for path, data in files(place / "ds").items() if "append" not in path.parts} == found
