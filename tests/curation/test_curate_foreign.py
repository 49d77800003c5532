"""`condprep.curate` of datasets that condprep did not make, that are damaged, or that are hardly there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from support.curated import OFFLINE, build_repeats, curate, foreign, foreign_rows, photograph, rejects_of, rows_of

import condprep
from condprep.dataset.layout import Layout
from condprep.dataset.push import dataset_files
from condprep.errors import BuildFailed, DatasetError, UsageError
from condprep.runtime.progress import Progress


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_repeats(tmp_path_factory.mktemp("curate"))


def test_a_dataset_of_others(built: Path, tmp_path: Path) -> None:
    """Any Parquet dataset: its own columns come along, captions with markup can be dropped, and it loads again."""
    from datasets import load_dataset

    rows = foreign_rows(built)
    rows[2]["caption"] = "a plain caption"
    folder = foreign(rows, tmp_path / "theirs" / "data" / "train-00000-of-00001.parquet").parents[1]
    result = curate(folder, tmp_path / "out", ["markup"])
    assert result.dropped == {"markup": 7}
    assert rows_of(tmp_path / "out") == [rows[2]]
    assert load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"][0]["score"] == 1.0
    with pytest.raises(UsageError):
        condprep.add_columns(tmp_path / "out", "canny")


def test_leaks_between_splits(built: Path, tmp_path: Path) -> None:
    """A validation row that repeats a training row, exactly or nearly, is found and dropped; the training row stays.

    Rows without a name of their own are called by their number in the split, as `datasets` and the trainer number them.
    """
    rows = foreign_rows(built)
    first = next(n for n, row in enumerate(rows_of(built)) if row["source"] == "0.png")
    near = next(n for n, row in enumerate(rows_of(built)) if row["source"] == "6-crop.png")
    other = next(n for n, row in enumerate(rows_of(built)) if row["source"] == "4.png")
    data = tmp_path / "theirs" / "data"
    foreign([rows[first], rows[1 if first != 1 else 2]], data / "train-00000-of-00001.parquet")
    foreign([rows[near], rows[first], rows[other]], data / "validation-00000-of-00001.parquet")
    found = [one for one in condprep.verify(data.parent, weights=OFFLINE).findings if one.rule == "leak"]
    assert [(one.row, one.key, one.twin) for one in found] == [(2, "validation:0", 0), (3, "validation:1", 0)]
    result = curate(data.parent, tmp_path / "out", ["leaks"])
    assert result.rows == {"train": 2, "validation": 1}
    rejects = (tmp_path / "out" / ".condprep" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in rejects] == ["validation:0", "validation:1"]


def test_no_two_rows_are_duplicates_afterwards(built: Path, tmp_path: Path) -> None:
    """Whatever split they lie in, of rows with the same pixels one stays, and in the split that comes first."""
    rows = foreign_rows(built)
    data = tmp_path / "theirs" / "data"
    foreign([rows[0], rows[1]], data / "train-00000-of-00001.parquet")
    foreign([rows[2], rows[1], rows[1], rows[2]], data / "validation-00000-of-00001.parquet")
    result = curate(data.parent, tmp_path / "out", ["duplicates"])
    assert result.rows == {"train": 2, "validation": 1}
    assert rows_of(tmp_path / "out") == rows[:3]


@pytest.mark.parametrize("stage", ["verify", "build"])
def test_a_dataset_that_changes_meanwhile_is_not_copied(built: Path, tmp_path: Path, stage: str) -> None:
    """Rows of two states make no dataset: what changes while it is looked at, or copied, ends with that, by `merge`, too."""

    def change(at: Progress) -> None:
        if at.stage == stage:
            os.utime(tmp_path / "one.parquet", ns=(at.done, at.done))

    for name in ("one", "two"):
        foreign(foreign_rows(built)[:2], tmp_path / f"{name}.parquet")
    with pytest.raises(DatasetError, match="was changed while it was read"):
        curate(tmp_path / "one.parquet", tmp_path / "out", ["dark"], progress=change)
    if stage == "build":
        with pytest.raises(DatasetError, match="was changed while it was read"):
            condprep.merge(
                [tmp_path / f"{name}.parquet" for name in ("two", "one")], tmp_path / "both", progress=change
            )
    assert not list(tmp_path.glob("*/.condprep/done.json"))


def test_a_damaged_file_is_named_and_the_others_are_copied(built: Path, tmp_path: Path) -> None:
    """Of a dataset with a cut file, the other files' rows are copied, and a note says which file it is.

    Where it lies on this machine stands in no record that `push` sends, nor on the card.
    """
    broken = tmp_path / "ds"
    shutil.copytree(built, broken)
    victim = sorted(broken.glob("train/*.arrow"))[1]
    victim.write_bytes(victim.read_bytes()[:2000])
    result = curate(broken, tmp_path / "out", ["dark"])
    assert result.rows == {"train": 5}
    assert any(victim.name in note for note in result.notes)
    assert curate(broken, tmp_path / "out", ["dark"]).notes == result.notes
    sent = [path for path in dataset_files(Layout(tmp_path / "out")) if path.endswith((".json", ".jsonl", ".md"))]
    assert not [path for path in sent if str(tmp_path) in (tmp_path / "out" / path).read_text()]


def test_pictures_that_are_paths_become_bytes(built: Path, tmp_path: Path) -> None:
    """Pictures stored as paths below the dataset are embedded: the new folder has no such files. Paths out of it are not."""
    rows = foreign_rows(built)
    (tmp_path / "secret.png").write_bytes(rows[0]["image"]["bytes"])
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "a.png").write_bytes(rows[1]["image"]["bytes"])
    rows[1]["image"]["path"] = None
    inside = rows[1] | {"image": {"bytes": None, "path": "a.png"}}
    outside = rows[1] | {"image": {"bytes": None, "path": "../secret.png"}}
    foreign([inside, outside], folder / "rows.parquet")
    curate(folder, tmp_path / "out", ["dark"])
    first, second = rows_of(tmp_path / "out")
    assert first == rows[1]
    assert second["image"]["bytes"] is None


def test_loose_files_are_refused_with_the_remedy(tmp_path: Path) -> None:
    """Two folders of pictures have no rows to copy: the message says how to make some."""
    for name in ("image", "canny"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        Image.fromarray(photograph(1)).save(tmp_path / "pairs" / name / "1.png")
    with pytest.raises(UsageError, match="condprep build"):
        curate(tmp_path / "pairs", tmp_path / "out", ["blurry"])


def test_zero_rows_one_row_and_none_left(built: Path, tmp_path: Path) -> None:
    """0 rows are an error of usage; one row is copied; that none is left is said, and every row's reason is there."""
    with pytest.raises(UsageError, match="0 rows"):
        curate(foreign([], tmp_path / "none.parquet"), tmp_path / "a", ["blurry"])
    one = foreign(foreign_rows(built)[:1], tmp_path / "one.parquet")
    assert curate(one, tmp_path / "b", ["blurry"]).rows == {"train": 1}
    with pytest.raises(BuildFailed, match="none of the 1 rows"):
        curate(one, tmp_path / "c", ["markup"])
    assert [reject["stage"] for reject in rejects_of(tmp_path / "c")] == ["curate"]
