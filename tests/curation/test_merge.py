"""`condprep merge`: datasets of the same columns become one, row for row and byte for byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, load_from_disk
from datasets import Image as ImageFeature
from PIL import Image
from support.command import Command
from support.curated import rows_of
from support.pictures import encoded, smooth

import condprep
from condprep.dataset.pairs.open import open_pairs
from condprep.errors import DatasetError, UsageError

HOW: dict[str, Any] = {"resolution": 64, "shard_rows": 2, "workers": 1}


def rows(dataset: Path, split: str = "train") -> list[tuple[str, bytes, bytes]]:
    """Source, picture and map of each row, as they are stored."""
    table = load_from_disk(str(dataset))[split].data.table
    return [
        (row["source"], row["image"]["bytes"], row["conditioning_image"]["bytes"])
        for row in table.select(["source", "image", "conditioning_image"]).to_pylist()
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets of Canny, which have a picture in common, and one of other parameters."""
    place = tmp_path_factory.mktemp("merge")
    for name, seeds in {"a": range(5), "b": range(4, 7)}.items():
        (place / f"raw-{name}").mkdir()
        for seed in seeds:
            Image.fromarray(smooth(64, 64, seed)).save(place / f"raw-{name}" / f"{name}{seed}.png")
        (place / f"raw-{name}" / "x.png").write_bytes(b"broken")
        condprep.build(place / f"raw-{name}", place / name, "canny", **HOW)
    condprep.build(place / "raw-b", place / "soft", "canny", params={"canny": {"low": 20}}, **HOW)
    condprep.build(place / "raw-b", place / "random", "canny:random", **HOW)
    return place


def test_all_rows_are_there_and_keep_their_bytes(place: Path, tmp_path: Path) -> None:
    """The rows of each, in order, in shards of the usual size; both datasets' inputs and rejects are counted."""
    result = condprep.merge([place / "a", place / "b"], tmp_path / "both")
    assert rows(tmp_path / "both") == rows(place / "a") + rows(place / "b")
    assert (result.rows, result.repeated, result.leaks) == ({"train": 8}, 1, 0)
    assert list(result.datasets) == [5, 3]
    assert len(list((tmp_path / "both" / "train").glob("*.arrow"))) == 4
    assert len((tmp_path / "both" / ".condprep" / "rejects.jsonl").read_text().splitlines()) == 2
    assert "10 inputs, 2 rejected" in (tmp_path / "both" / "README.md").read_text()
    assert not condprep.verify(tmp_path / "both", checks=["structure"]).failures()


@pytest.mark.parametrize("first", [0, 1])
def test_arrow_and_parquet_are_merged(place: Path, tmp_path: Path, first: int) -> None:
    """The same columns are the same in either format; the merged one has the first one's."""
    condprep.build(place / "raw-b", tmp_path / "b", "canny", format="parquet", **HOW)
    both = [place / "a", tmp_path / "b"] if not first else [tmp_path / "b", place / "a"]
    condprep.merge(both, tmp_path / "both")
    assert (tmp_path / "both" / "data").exists() == bool(first)
    found = [(row["source"], row["image"]["bytes"]) for row in rows_of(tmp_path / "both")]
    assert found == [(row["source"], row["image"]["bytes"]) for one in both for row in rows_of(one)]


def test_what_was_merged_can_be_split_and_merged_again(place: Path, tmp_path: Path) -> None:
    """A merged dataset is one of condprep: the same call finds it done, other verbs take it, a leak is counted."""
    for _ in range(2):
        result = condprep.merge([place / "a", place / "b"], tmp_path / "both")
    assert result.resumed == 8
    condprep.split(tmp_path / "both", 0.5)
    again = condprep.merge([place / "b", tmp_path / "both"], tmp_path / "more")
    assert sum(again.rows.values()) == 11
    held_out = {source for source, *_ in rows(tmp_path / "both", "validation")}
    assert again.leaks == sum(source.startswith(("b", "a4")) for source in held_out)


@pytest.mark.parametrize(
    ("others", "error", "said"),
    [
        (["soft"], UsageError, "were made in different ways"),
        (["random"], UsageError, "differ in the column 'canny_thresholds': not there and list"),
        ([], UsageError, "give two datasets"),
        (["raw-a"], UsageError, "raw-a"),
    ],
)
def test_what_cannot_be_one_dataset_is_refused(
    place: Path, tmp_path: Path, others: list[str], error: type[Exception], said: str
) -> None:
    """Other parameters, another variant, one dataset alone, no dataset: nothing is begun."""
    with pytest.raises(error, match=said):
        condprep.merge([place / "a", *(place / name for name in others)], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_labels_keep_their_names(tmp_path: Path) -> None:
    """Numbers that stand for other names in the second dataset are refused: a "cat" there would be called a "dog"."""
    picture = {"bytes": encoded(smooth(64, 64, 0)), "path": None}
    for name, labels in {"a": ["cat", "dog"], "b": ["dog", "cat"], "c": ["cat", "dog"]}.items():
        kinds = Features(
            {"image": ImageFeature(), "conditioning_image": ImageFeature(), "label": ClassLabel(names=labels)}
        )
        row = {"image": picture, "conditioning_image": picture, "label": 0}
        Dataset.from_list([row], features=kinds).save_to_disk(tmp_path / name)
    with pytest.raises(UsageError, match=r"differ in the column 'label': int64 of the names \['cat', 'dog'\] and"):
        condprep.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    condprep.merge([tmp_path / "a", tmp_path / "c"], tmp_path / "both")
    assert load_from_disk(str(tmp_path / "both"))["train"].features["label"].names == ["cat", "dog"]


def test_inputs_are_rows_and_rejects_whatever_was_done_before(place: Path, tmp_path: Path) -> None:
    """Also where columns were added since: card and provenance count every reject of both, and what rows are."""
    for name in ("a", "b"):
        shutil.copytree(place / name, tmp_path / name)
        added = condprep.add_columns(tmp_path / name, "gray")
        before = json.loads((place / name / ".condprep" / "done.json").read_text())
        assert (added.untouched, added.enlarged) == (before["untouched"], before["enlarged"])
    condprep.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    counts = json.loads((tmp_path / "both" / ".condprep" / "provenance.json").read_text())["counts"]
    assert (counts["inputs"], counts["rows"], counts["rejects"]) == (10, {"train": 8}, {"unknown-format": 2})
    assert "10 inputs, 2 rejected" in (tmp_path / "both" / "README.md").read_text()


@pytest.mark.parametrize(
    "how", [{"fit": "pad"}, {"resolution": 128, "max_upscale": 2.0}, {"decode": "exact"}, {"max_upscale": 3.0}]
)
def test_what_a_dataset_says_holds_for_all_its_rows(place: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    """Datasets of another geometry are refused in either order, and it is said which: `--like` repeats that of all rows, and what
    adds columns would take the borders of `--fit pad` for pictures."""
    name = next(iter(how))
    condprep.build(place / "raw-b", tmp_path / "other", "canny", **HOW | how)
    for datasets in ([place / "a", tmp_path / "other"], [tmp_path / "other", place / "a"]):
        with pytest.raises(UsageError, match=f"were built with another {name}: "):
            condprep.merge(datasets, tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_whose_map_is_the_condition_is_known_whatever_was_added(place: Path, tmp_path: Path) -> None:
    """Also after columns were added, and of what was merged: with another one `conditioning_image` would be of two kinds."""
    for name, primary in {"one": "canny", "two": "gray", "more": "gray"}.items():
        condprep.build(place / "raw-b", tmp_path / name, ["canny", "gray"], primary=primary, **HOW)
        condprep.add_columns(tmp_path / name, "canny:random")
    with pytest.raises(UsageError, match="were built with another primary: canny and gray"):
        condprep.merge([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    condprep.merge([tmp_path / "two", tmp_path / "more"], tmp_path / "both")
    pairs = open_pairs(str(tmp_path / "both"))
    assert pairs.made is not None
    assert (pairs.made.annotator, pairs.made.column) == ("gray:luminance", "gray")


def test_what_each_of_them_says_of_itself_goes_along(place: Path, tmp_path: Path) -> None:
    """What was curated away from either, and the machine and version that made each."""
    condprep.curate(place / "b", tmp_path / "b", ["near-duplicates"])
    condprep.merge([place / "a", tmp_path / "b"], tmp_path / "both")
    said = json.loads((tmp_path / "both" / ".condprep" / "provenance.json").read_text())
    assert [set(one) >= {"kind", "machine", "condprep"} for one in said["source"]["datasets"]] == [True, True]
    assert "machine" not in said
    assert "Curated, which left out" in (tmp_path / "both" / "README.md").read_text()


def test_other_datasets_are_another_merge(place: Path, tmp_path: Path, command: Command) -> None:
    """The folder of a merge is that of these datasets, in this order; the command says what it made."""
    ended = command("merge", place / "a", place / "b", "-o", tmp_path / "both")
    assert ended.code == 0
    assert "rows\ttrain 8" in ended.out
    assert "--drop duplicates" in ended.err
    with pytest.raises(DatasetError, match="was begun with other settings"):
        condprep.merge([place / "b", place / "a"], tmp_path / "both")
    assert command("merge", place / "b", place / "a", "-o", tmp_path / "both", "--overwrite", "--json").json["rows"]
