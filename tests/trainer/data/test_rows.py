"""Rows by number from any paired dataset; a mistake is answered in the recipe's words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from support.noise import save_dataset

from condprep.dataset.pairs.base import read_transform
from trainer.data.rows import open_rows
from trainer.errors import DataError
from trainer.recipe.recipe import Data


def test_rows_of_a_build_are_those_of_datasets(built: Path, tmp_path: Path) -> None:
    """Every row read by number has the bytes, caption and key that `load_from_disk` gives, split by split."""
    for split in ("train", "validation"):
        rows = open_rows(Data(path=str(built)), split, tmp_path)
        expected = datasets.load_from_disk(str(built))[split].with_format("arrow")
        assert len(rows) == len(expected) > 0
        for number in range(len(rows)):
            row, known = rows[number], expected[number].to_pylist()[0]
            assert (row.image, row.conditions[0]) == (known["image"]["bytes"], known["conditioning_image"]["bytes"])
            assert (row.key, row.captions) == (known["key"], tuple(known["text"]))
        assert rows.kind == "canny"
    assert not list(tmp_path.iterdir()), "what lies in Arrow files is not copied"


def two_folders(built: Path, folder: Path) -> tuple[Path, int]:
    rows = open_rows(Data(path=str(built)), "train", folder)
    for number in range(len(rows)):
        row = rows[number]
        for name, data in (("image", row.image), ("canny", row.conditions[0])):
            (folder / "pairs" / name).mkdir(parents=True, exist_ok=True)
            (folder / "pairs" / name / f"{number:03d}.png").write_bytes(data)
        (folder / "pairs" / "image" / f"{number:03d}.txt").write_text(row.captions[0])
    return folder / "pairs", len(rows)


def parquet(built: Path, folder: Path) -> tuple[Path, int]:
    rows = datasets.load_from_disk(str(built))["train"]
    rows.to_parquet(folder / "pairs" / "data" / "train-00000-of-00001.parquet")
    return folder / "pairs", len(rows)


def listing(built: Path, folder: Path) -> tuple[Path, int]:
    root, count = two_folders(built, folder)
    lines = [
        {"source": f"canny/{n:03d}.png", "target": f"image/{n:03d}.png", "prompt": f"row {n}"} for n in range(count)
    ]
    (root / "prompt.json").write_text("\n".join(map(json.dumps, lines)))
    return root, count


@pytest.mark.parametrize("layout", [two_folders, parquet, listing])
def test_every_dataset_that_verify_reads_can_be_trained_on(
    layout: Callable[[Path, Path], tuple[Path, int]], built: Path, tmp_path: Path
) -> None:
    """Folders, listings and Parquet give the pictures of the Arrow dataset; the copy that it takes is made once."""
    (tmp_path / "pairs").mkdir()
    path, count = layout(built, tmp_path)
    expected = open_rows(Data(path=str(built)), "train", tmp_path)
    rows = open_rows(Data(path=str(path)), "train", tmp_path / "copies")
    found = {(row.image, row.conditions[0]) for row in map(rows.__getitem__, range(count))}
    assert found == {(row.image, row.conditions[0]) for row in map(expected.__getitem__, range(count))}
    assert all(caption for number in range(count) for caption in rows.captions(number))
    (copy,) = (tmp_path / "copies").iterdir()
    before = copy.stat().st_mtime_ns
    open_rows(Data(path=str(path)), "train", tmp_path / "copies")
    assert copy.stat().st_mtime_ns == before


def test_a_copy_has_the_transforms(built: Path, tmp_path: Path) -> None:
    """The way from the source is read from Arrow and Parquet alike, and what is no transform is not believed."""
    expected = open_rows(Data(path=str(built)), "train", tmp_path)
    path, count = parquet(built, tmp_path)
    rows = open_rows(Data(path=str(path)), "train", tmp_path / "copies")
    known = [expected.transform(number) for number in range(count)]
    assert [rows.transform(number) for number in range(count)] == known
    assert known[0] == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for wrong in ([0.0] * 6, [1.0] * 6, [1.0, 0.0, float("nan"), 0.0, 1.0, 0.0], [1.0], "no", [None] * 6):
        assert read_transform(wrong) is None


@pytest.mark.parametrize("parquet", [False, True])
def test_the_column_of_the_conditions_is_the_one_that_was_used(parquet: bool, tmp_path: Path) -> None:
    """A name that was guessed is the one that is recorded, also where the rows are read from a copy."""
    folder = save_dataset(tmp_path / "ds")
    renamed = datasets.load_from_disk(str(folder))["train"].rename_column("conditioning_image", "canny")
    if parquet:
        renamed.to_parquet(tmp_path / "named" / "train.parquet")
    else:
        datasets.DatasetDict({"train": renamed}).save_to_disk(tmp_path / "named")
    rows = open_rows(Data(path=str(tmp_path / "named")), "train", tmp_path / "copies")
    assert rows.conditions == ("canny",)
    assert (tmp_path / "copies").exists() == parquet


def test_max_rows_are_spread_evenly(built: Path, tmp_path: Path) -> None:
    """`max_rows` takes that many different rows, in order, the first among them."""
    everything = open_rows(Data(path=str(built)), "train", tmp_path)
    rows = open_rows(Data(path=str(built), max_rows=4), "train", tmp_path)
    keys = [everything.key(number) for number in range(len(everything))]
    chosen = [keys.index(rows.key(number)) for number in range(4)]
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    assert chosen[-1] >= len(everything) * 3 // 4


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"split": "trian"}, "no split 'trian'; there is train, validation"),
        ({"image_column": "picture"}, r"data\.image_column 'picture' is not there"),
        ({"condition_column": "key"}, r"data\.condition_column 'key' holds no pictures"),
        (
            {"condition_column": "keys"},
            r"data\.condition_column 'keys' is not there; there are image, conditioning_image",
        ),
        ({"caption_column": "txt"}, r"data\.caption_column 'txt' is not there; did you mean text"),
        ({"kind": "pose"}, 'data.kind = "pose", but the conditions of .* are of kind "canny"'),
        ({"path": "/no/such/place"}, "there is no file or folder"),
    ],
)
def test_a_wrong_word_in_the_recipe_is_answered_in_its_words(
    recipe: dict[str, str], said: str, built: Path, tmp_path: Path
) -> None:
    """Path, split, columns and kind are each checked against what is there."""
    data = Data(**({"path": str(built)} | recipe))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=said):
        open_rows(data, data.split, tmp_path)


def test_a_dataset_without_captions_is_refused(tmp_path: Path) -> None:
    """A ControlNet is trained with text."""
    folder = save_dataset(tmp_path / "ds")
    made = datasets.load_from_disk(str(folder))["train"].remove_columns("text")
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "bare")
    with pytest.raises(DataError, match=r"no captions .* data\.caption_column"):
        open_rows(Data(path=str(tmp_path / "bare")), "train", tmp_path)


def test_a_damaged_file_is_named(built: Path, tmp_path: Path) -> None:
    """An Arrow file that is cut off is a DataError, not a crash."""
    folder = Path(shutil.copytree(built, tmp_path / "ds"))
    (file,) = (folder / "train").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(DataError, match="damaged"):
        open_rows(Data(path=str(folder)), "train", tmp_path)


def test_pixels_that_look_otherwise_are_a_note(tmp_path: Path) -> None:
    """Where the dataset does not say its kind the recipe's word counts, and a note tells what the maps look like."""
    folder = save_dataset(tmp_path / "ds")
    assert open_rows(Data(path=str(folder)), "train", tmp_path).kind == "canny"
    rows = open_rows(Data(path=str(folder), kind="depth"), "train", tmp_path)
    assert rows.kind == "depth"
    assert any("look like canny" in note for note in rows.notes)
