"""`--append`: what is new becomes further shards, what was there keeps its bytes; `--limit` takes the first inputs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from PIL import Image
from support.pictures import smooth

import condprep
from condprep import build
from condprep.errors import DatasetError, UsageError

HOW: dict[str, Any] = {"resolution": 64, "shard_rows": 4, "workers": 2}
NEW = (1, 8)  # of the twelve pictures: between the others


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """Twelve small pictures in two folders."""
    for number in range(12):
        path = tmp_path / "raw" / f"group{number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth(80, 72, number)).save(path)
    return tmp_path / "raw"


@pytest.fixture
def grown(pile: Path, tmp_path: Path) -> Path:
    """A dataset of ten of them, in a folder in which two others lie between them by now, and a broken one."""
    hidden = [sorted(pile.rglob("*.png"))[n] for n in NEW]
    for path in hidden:
        shutil.move(path, tmp_path / path.name)
    build(pile, tmp_path / "ds", "canny", **HOW)
    for path in hidden:
        shutil.move(tmp_path / path.name, path)
    (pile / "0.png").write_bytes(b"no picture")
    return pile


def rows(dataset: Path) -> dict[str, tuple[bytes, bytes]]:
    """source -> picture and map, in the dataset's order."""
    import pyarrow as pa

    found = {}
    for file in sorted((dataset / "train").glob("*.arrow")):
        with pa.memory_map(str(file)) as mapped:
            for row in pa.ipc.open_stream(mapped).read_all().to_pylist():
                found[row["source"]] = (row["image"]["bytes"], row["conditioning_image"]["bytes"])
    return found


def test_what_is_new_lies_behind_what_was_there(grown: Path, tmp_path: Path) -> None:
    """The files that were there keep their bytes, the new rows are those of a build of everything, and all are counted."""
    before = [path.read_bytes() for path in sorted((tmp_path / "ds" / "train").glob("*.arrow"))]
    result = build(grown, tmp_path / "ds", "canny", append=True, **HOW)
    assert (result.inputs, result.rows, result.rejects) == (13, {"train": 12}, {"unknown-format": 1})
    assert result.resumed == 10
    after = [path.read_bytes() for path in sorted((tmp_path / "ds" / "train").glob("*.arrow"))]
    assert after[: len(before)] == before
    assert len(load_from_disk(str(tmp_path / "ds"))["train"]) == 12
    build(grown, tmp_path / "whole", "canny", **HOW)
    assert rows(tmp_path / "ds") == rows(tmp_path / "whole")
    assert [*rows(tmp_path / "ds")][-2:] == [[*rows(tmp_path / "whole")][n] for n in NEW]


def test_once_added_there_is_nothing_left_to_do(grown: Path, tmp_path: Path) -> None:
    """The same command again, and the one without --append, find the dataset finished; retries know the new shards."""
    build(grown, tmp_path / "ds", "canny", append=True, **HOW)
    files = {path: path.read_bytes() for path in (tmp_path / "ds").rglob("*") if path.is_file()}
    for how in ({"append": True}, {}):
        assert build(grown, tmp_path / "ds", "canny", **how, **HOW).resumed == 13
        assert {path: path.read_bytes() for path in (tmp_path / "ds").rglob("*") if path.is_file()} == files
    shutil.copy(next(grown.rglob("*1.png")), grown / "0.png")
    assert build(grown, tmp_path / "ds", "canny", retry_rejects="all", **HOW).rows == {"train": 13}
    assert "0.png" in rows(tmp_path / "ds")


def test_what_changed_and_what_is_gone_is_named_and_left(grown: Path, tmp_path: Path) -> None:
    """Rows whose file is another by now, or is gone, stay as they are, and the end of the build names them."""
    before = rows(tmp_path / "ds")
    gone, changed, *_, other = (grown / name for name in before)
    gone.unlink()
    shutil.copy(other, changed)
    result = build(grown, tmp_path / "ds", "canny", append=True, **HOW)
    named = {kind: noted["names"] for kind, noted in result.notes.items()}
    assert named["no longer in the source; its row stays"] == [gone.relative_to(grown).as_posix()]
    assert named["changed since it became a row, and left as it was"] == [changed.relative_to(grown).as_posix()]
    assert rows(tmp_path / "ds").items() >= before.items()


def test_after_a_split_what_is_new_finds_its_place(grown: Path, tmp_path: Path) -> None:
    """`condprep split` makes other files of the dataset; further rows go behind them, held out by the same share."""
    condprep.split(tmp_path / "ds", 0.4)
    result = build(grown, tmp_path / "ds", "canny", append=True, validation=0.4, **HOW)
    build(grown, tmp_path / "whole", "canny", validation=0.4, **HOW)
    assert rows(tmp_path / "ds") == rows(tmp_path / "whole")
    assert result.rows.keys() == {"train", "validation"}
    assert {name: len(part) for name, part in load_from_disk(str(tmp_path / "ds")).items()} == result.rows


def test_only_a_finished_dataset_of_the_same_settings_is_added_to(grown: Path, tmp_path: Path) -> None:
    """No dataset, other settings, and options that contradict --append are refused, and nothing is changed."""
    with pytest.raises(DatasetError, match="no finished dataset; build it without append=True first"):
        build(grown, tmp_path / "nothing", "canny", append=True, **HOW)
    with pytest.raises(DatasetError, match=r"resolution: 64 there, 128 now"):
        build(grown, tmp_path / "ds", "canny", append=True, **HOW | {"resolution": 128})
    with pytest.raises(UsageError, match="leave out overwrite=True, retry_rejects and limit"):
        build(grown, tmp_path / "ds", "canny", append=True, overwrite=True, **HOW)
    with pytest.raises(DatasetError, match=r"3 new .* add what is new to the finished dataset with append=True"):
        build(grown, tmp_path / "ds", "canny", **HOW)


def test_the_first_inputs_are_taken_and_recorded(pile: Path, tmp_path: Path) -> None:
    """`limit` takes the first in the source's order; the same call finds them, another limit is another dataset."""
    first = build(pile, tmp_path / "ds", "canny", limit=5, **HOW)
    build(pile, tmp_path / "whole", "canny", **HOW)
    assert first.inputs == 5
    assert list(rows(tmp_path / "ds").items()) == list(rows(tmp_path / "whole").items())[:5]
    assert build(pile, tmp_path / "ds", "canny", limit=5, **HOW).resumed == 5
    with pytest.raises(DatasetError, match=r"limit: 5 there, None now"):
        build(pile, tmp_path / "ds", "canny", **HOW)
