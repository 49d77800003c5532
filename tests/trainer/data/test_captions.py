"""`text.captions`: several columns of captions, each drawn as often as its weight says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from support.noise import edges, picture, png

from trainer.data.captions import Captions
from trainer.data.open import open_split
from trainer.data.rows import Rows, open_rows
from trainer.data.sampler import Chance, SampledRow
from trainer.data.split import Split
from trainer.errors import DataError, RecipeError
from trainer.recipe.recipe import Data, Text
from trainer.recipe.toml import parse_recipe

WEIGHTS = {"long": 0.7, "short": 0.2, "tags": 0.1}
COLUMNS: dict[str, list[Any]] = {
    "long": ["a long one", "another long one", "", None],
    "short": ["one", "other", "third", ""],
    "tags": [["a", "b"], ["c"], [], []],
    "nothing": ["", " ", None, ""],
    "numbers": [1, 2, 3, 4],
}


@pytest.fixture(scope="module", params=["arrow", "parquet"])
def dataset(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mapped where it lies, or copied first."""
    folder: Path = tmp_path_factory.mktemp(request.param) / "ds"
    images, maps = ([png(make(n, (64, 64))) for n in range(4)] for make in (picture, edges))
    rows = datasets.Dataset.from_dict({"image": images, "conditioning_image": maps} | COLUMNS)
    for name in ("image", "conditioning_image"):
        rows = rows.cast_column(name, datasets.Image())
    if request.param == "arrow":
        datasets.DatasetDict({"train": rows}).save_to_disk(folder)
    else:
        (folder / "data").mkdir(parents=True)
        rows.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


def rows_of(dataset: Path, kept: Path, **captions: float) -> Rows:
    return open_rows(Data(path=str(dataset), kind="canny"), "train", kept, Text(captions=captions))


def opened(dataset: Path, kept: Path, seed: int = 0, training: bool = True) -> Split:
    tables = {
        "data": {"path": str(dataset), "kind": "canny", "resolution": 64, "caption_dropout": 0.0},
        "text": {"captions": WEIGHTS},
        "train": {"batch": 2, "micro_batch": 2, "seed": seed},
        "cache": {"dir": str(kept)},
    }
    return open_split(parse_recipe(tables), "train", training=training)


def drawn(split: Split, row: int, epochs: int) -> list[str]:
    chances = [Chance.of(SampledRow(row, epoch), split.recipe.train.seed) for epoch in range(epochs)]
    return [split.rows.caption(row, chance.caption) for chance in chances]


def test_columns_are_drawn_in_proportion_to_their_weights() -> None:
    """Even draws over [0, 1) give each caption its weight; a column of two shares its own out to them."""
    captions = Captions.of_columns([["long"], ["short"], ["a", "b"]], [7, 2, 1])
    found = Counter(captions.drawn((n + 0.5) / 1000) for n in range(1000))
    assert found == {"long": 700, "short": 200, "a": 50, "b": 50}


def test_an_empty_column_leaves_its_weight_to_the_others() -> None:
    """What has no text is never drawn where there is another, and a row without any has the empty caption."""
    captions = Captions.of_columns([[""], ["short"], []], [7, 2, 1])
    assert {captions.drawn(n / 10) for n in range(10)} == {"short"}
    assert Captions.of_columns([[" "], []], [1, 1]).drawn(0.5) == ""


def test_rows_have_the_captions_of_all_columns(dataset: Path, tmp_path: Path) -> None:
    """Those that are not empty, the heaviest column's first, whatever the order in the recipe."""
    rows = rows_of(dataset, tmp_path, tags=0.1, long=0.7, short=0.2)
    found = [rows.captions(n) for n in range(4)]
    assert found == [("a long one", "one", "a", "b"), ("another long one", "other", "c"), ("third",), ("",)]


def test_what_is_drawn_follows_from_seed_epoch_and_row(dataset: Path, tmp_path: Path) -> None:
    """The same again in another opening; another seed, row and epoch draw anew; all captions of the row occur."""
    split = opened(dataset, tmp_path)
    first = drawn(split, 0, 200)
    assert first == drawn(opened(dataset, tmp_path), 0, 200)
    assert first != drawn(opened(dataset, tmp_path, seed=1), 0, 200)
    assert set(first) == set(split.rows.captions(0))
    assert Counter(first).most_common(1)[0][0] == "a long one"


def test_rows_are_shown_with_the_caption_of_the_heaviest_column(dataset: Path, tmp_path: Path) -> None:
    """What validation and samples have; where a row has none there, that of the next."""
    split = opened(dataset, tmp_path, training=False)
    assert [split.view(n)[2] for n in range(3)] == ["a long one", "another long one", "third"]


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        ({"lang": 1.0, "short": 1.0}, "'lang'"),
        (
            {"short": 1.0, "lang": 0.5},
            "names the column 'lang', but the columns of text of .* are long, short, tags, nothing",
        ),
        ({"short": 1.0, "numbers": 0.5}, "names the column 'numbers', but the columns of text"),
        ({"short": 1.0, "nothing": 0.5}, "column 'nothing' of .* is empty in every row; leave it out, or fill it"),
    ],
)
def test_a_column_that_is_missing_or_empty_is_said(
    captions: dict[str, float], said: str, dataset: Path, tmp_path: Path
) -> None:
    """With its name and, for one that is not there, those that are."""
    with pytest.raises(DataError, match=f"text.captions.*{said}|{said}.*text.captions"):
        rows_of(dataset, tmp_path, **captions)


def test_folders_have_no_columns(tmp_path: Path) -> None:
    """Pictures and maps in folders, with captions beside them, cannot have several."""
    for name, make in (("images", picture), ("conditions", edges)):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        (tmp_path / "pairs" / name / "a.png").write_bytes(png(make(0, (64, 64))))
    (tmp_path / "pairs" / "images" / "a.txt").write_text("a caption")
    with pytest.raises(DataError, match=r"text\.captions"):
        rows_of(tmp_path / "pairs", tmp_path / "kept", long=1.0)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"text": {"captions": {"long": 0.0}}}, "text.captions"),
        ({"text": {"captions": {"long": 1.0}}, "data": {"caption_column": "short"}}, "say one of the two"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_opened(tables: dict[str, Any], said: str) -> None:
    """A weight of nothing, and captions that are named twice."""
    with pytest.raises(RecipeError, match=said):
        parse_recipe(tables)
