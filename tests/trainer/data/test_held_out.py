"""`data.validation = 0.25`: rows that a recipe holds out, chosen by their keys, so that a row keeps its side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from support.noise import edges, picture, png
from support.trainer_models import build_dataset

from trainer.data.open import open_split, open_splits
from trainer.errors import DataError
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml import parse_recipe
from trainer.training.plan import held_out_note

SHARE = 0.25
Sides = tuple[list[str], list[str]]  # keys of the rows that are trained on, and of those that are held out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets of the same pictures without held-out rows: `ds`, `parquet`, and `more` with further ones."""
    root = tmp_path_factory.mktemp("held_out")
    build_dataset(root / "ds", 24, validation=0.0)
    build_dataset(root / "parquet", 24, validation=0.0, format="parquet")
    build_dataset(root / "more", 32, validation=0.0)
    return root


def recipe_of(dataset: Path, kept: Path, **data: Any) -> Recipe:
    usual = {"path": str(dataset), "resolution": 64, "validation": SHARE}
    return parse_recipe({"data": usual | data, "cache": {"dir": str(kept)}, "train": {"batch": 2, "micro_batch": 2}})


def sides(recipe: Recipe) -> Sides:
    train, held_out = open_splits(recipe)
    assert held_out is not None
    first, second = ([split.rows.key(n) for n in range(len(split.rows))] for split in (train, held_out))
    return first, second


@pytest.mark.parametrize("form", ["ds", "parquet"])
def test_the_rows_are_those_that_a_build_holds_out(form: str, folder: Path, tmp_path: Path) -> None:
    """Mapped or copied: both sides are the splits of a dataset that was built with that share."""
    built = build_dataset(tmp_path / "built", 24, validation=SHARE)
    assert sides(recipe_of(folder / form, tmp_path)) == sides(recipe_of(built, tmp_path, validation="validation"))


def test_every_row_is_on_one_side_and_they_are_other_rows(folder: Path, tmp_path: Path) -> None:
    """None is lost or in both, and the fingerprints of the sides and of the whole differ: none is taken for another in a cache."""
    recipe = recipe_of(folder / "ds", tmp_path)
    train, held_out = open_splits(recipe)
    whole = open_split(recipe_of(folder / "ds", tmp_path, validation=""), "train", training=True)
    assert held_out is not None
    assert sorted(key for side in sides(recipe) for key in side) == sorted(whole.rows.key(n) for n in range(24))
    assert len({train.fingerprint, held_out.fingerprint, whole.fingerprint}) == 3


def test_a_row_keeps_its_side_when_the_dataset_grows(folder: Path, tmp_path: Path) -> None:
    """Rows of a dataset lie on the same side in one with further rows; so they do where a dataset has no keys."""
    bare = [without_keys(tmp_path / str(rows), rows) for rows in (16, 24)]
    for small, large in ((folder / "ds", folder / "more"), bare):
        (train, held_out), (more, also) = (sides(recipe_of(one, tmp_path / "kept")) for one in (small, large))
        assert set(train) < set(more)
        assert set(held_out) <= set(also)


def test_a_larger_share_holds_out_the_same_and_more(folder: Path, tmp_path: Path) -> None:
    """A row that is held out by a share is held out by every larger one."""
    held = [set(sides(recipe_of(folder / "ds", tmp_path, validation=share))[1]) for share in (0.1, 0.3, 0.6)]
    assert held[0] < held[1] < held[2]


def test_pictures_of_a_folder_stay_together(tmp_path: Path) -> None:
    """By group no folder of pictures is on both sides, and both sides have some."""
    dataset = without_keys(tmp_path / "ds", 24, source=[f"clip{n % 6}/{n}.png" for n in range(24)])
    train, held_out = sides(recipe_of(dataset, tmp_path / "kept", validation=0.5, validation_by="group"))
    folders = [{int(key.partition(":")[2]) % 6 for key in side} for side in (train, held_out)]
    assert not folders[0] & folders[1]
    assert len(train) == 4 * len(folders[0])
    assert len(held_out) == 4 * len(folders[1])


def test_a_share_is_refused_where_it_cannot_be(built: Path, folder: Path, tmp_path: Path) -> None:
    """A dataset with held-out rows, a share of no row or of all, and groups where there are none: each with the remedy."""
    refused = {
        "held-out rows already, in its split 'validation': say": recipe_of(built, tmp_path),
        "holds out none of the 24 rows .* a larger share": recipe_of(folder / "ds", tmp_path, validation=0.0001),
        "holds out all of the 24 rows .* a smaller share": recipe_of(folder / "ds", tmp_path, validation=0.9999),
        "come from one folder or tar": recipe_of(folder / "ds", tmp_path, validation_by="group"),
        "does not say in a column `source`": recipe_of(
            without_keys(tmp_path / "bare", 8), tmp_path, validation_by="group"
        ),
    }
    for said, recipe in refused.items():
        with pytest.raises(DataError, match=said):
            open_splits(recipe)


def test_a_run_says_what_is_held_out(built: Path, folder: Path, tmp_path: Path) -> None:
    """How many rows a share or a split holds out; that there are none, and how to get some; and that nothing is validated."""
    share = recipe_of(folder / "ds", tmp_path)
    none = recipe_of(folder / "ds", tmp_path, validation="validation")
    idle = none.model_copy(update={"eval": none.eval.model_copy(update={"every": 0})})
    held = len(sides(share)[1])
    for recipe, said in (
        (share, f"{held} of 24 rows are held out, by data.validation = 0.25"),
        (recipe_of(built, tmp_path, validation="validation"), "rows are held out, in split 'validation'"),
        (none, "no held-out rows: nothing is measured while training; data.validation = 0.02"),
        (idle, "nothing is validated: eval.every, or all that it would measure, is 0"),
    ):
        assert said in held_out_note(recipe, *open_splits(recipe))


def without_keys(folder: Path, rows: int, **columns: list[str]) -> Path:
    """A dataset of others: a picture, its map and its caption."""
    images, maps = ([png(make(n, (64, 64))) for n in range(rows)] for make in (picture, edges))
    values = {"image": images, "conditioning_image": maps, "text": [f"picture {n}" for n in range(rows)]}
    made = datasets.Dataset.from_dict(values | columns)
    for name in ("image", "conditioning_image"):
        made = made.cast_column(name, datasets.Image())
    datasets.DatasetDict({"train": made}).save_to_disk(folder)
    return folder
