"""Every row looked at before step 1: what `condprep verify` would call an error is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.noise import edges, picture, png, save_dataset

from trainer.data.rows import open_rows
from trainer.data.scan import scan
from trainer.errors import DataError
from trainer.recipe.recipe import Data


def test_a_scan_knows_every_size_and_is_kept(built: Path, tmp_path: Path) -> None:
    """The sizes are those of the pictures; a second scan opens no row and says the same."""
    rows = open_rows(Data(path=str(built)), "train", tmp_path)
    seen: list[int] = []
    found = scan(rows, "ds", tmp_path, lambda done, total: seen.append(done))
    assert found.sizes == [(64, 64)] * len(rows)
    assert seen == list(range(1, len(rows) + 1))
    seen.clear()
    assert scan(rows, "ds", tmp_path, lambda done, total: seen.append(done)) == found
    assert not seen


def test_the_fingerprint_is_that_of_the_content(built: Path, tmp_path: Path) -> None:
    """A copy elsewhere has the same; another caption, picture or map has another."""
    original = open_rows(Data(path=str(built)), "train", tmp_path)
    copied = open_rows(Data(path=str(shutil.copytree(built, tmp_path / "copy"))), "train", tmp_path)
    same = scan(original, "ds", tmp_path / "a").fingerprint
    assert scan(copied, "ds", tmp_path / "b").fingerprint == same
    found = {same}
    for number, columns in enumerate(({"text": ["x"] * 6}, {"image": [png(picture(9))] * 6}, {})):
        folder = save_dataset(tmp_path / str(number), **columns)
        found.add(scan(open_rows(Data(path=str(folder)), "train", tmp_path), "ds", tmp_path / "c").fingerprint)
    assert len(found) == 4


def wrong(row: int, value: Any, column: str = "conditioning_image") -> dict[str, Any]:
    """A column with one value that is not as it should be."""
    usual = {"image": png(picture()), "conditioning_image": png(edges()), "text": "a caption"}
    return {column: [value if number == row else usual[column] for number in range(6)]}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (wrong(2, png(edges(0, (64, 128)))), r"train:2: the map has another shape"),
        (wrong(2, png(edges(0, (32, 32)))), r"train:2: the map is 32 x 32 px, the picture 64 x 64 px"),
        (wrong(2, b"no picture"), r"train:2: the condition cannot be decoded"),
        (wrong(2, png(picture()), "image") | wrong(3, b"", "image"), r"train:3: the image cannot be decoded"),
        (wrong(2, None), r"there is no picture in 'conditioning_image'"),
        (wrong(2, None, "text"), r"the caption is missing \(null\)"),
        ({"text": [""] * 6}, r"every caption of split 'train' is empty"),
    ],
)
def test_rows_that_verify_would_refuse_are_refused_before_step_1(
    columns: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Unequal pairs, unreadable pictures and missing captions are named with their row; so are captions that are all empty."""
    folder = save_dataset(tmp_path / "ds", **columns)
    with pytest.raises(DataError, match=said):
        scan(open_rows(Data(path=str(folder)), "train", tmp_path / "kept"), str(folder), tmp_path / "kept")
    assert not (tmp_path / "kept").exists(), "a mistake leaves nothing behind"
