"""Rows with maps of several kinds: all of them are read, cached and mirrored alike, and chance says which a row is given."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.flow_models import save_flow_base
from support.kinds import COLUMNS, KINDS, build_kinds
from support.noise import picture, png, save_dataset
from support.pictures import encoded, smooth
from support.trainer_models import save_base, save_pictures

from condprep.images.decode import decode
from trainer.data.loader import Loader
from trainer.data.open import open_split, open_splits
from trainer.data.rows import open_rows
from trainer.data.sampler import SampledRow, given
from trainer.data.split import Split
from trainer.errors import DataError, RecipeError
from trainer.evaluation.evaluate import _told
from trainer.evaluation.result import Trained
from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Data, Model, Recipe
from trainer.recipe.toml import parse_recipe
from trainer.types import ONE_PROCESS, Batch


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_kinds(tmp_path_factory.mktemp("kinds") / "ds")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Not to be changed."""
    folder = save_base(tmp_path_factory.mktemp("base") / "sd")
    return load_base(Model(base=str(folder)), kinds=KINDS)


def filled(dataset: Path, base: Base, kept: Path, cached: bool = True, **data: Any) -> Split:
    cache = {"dir": str(kept), "latents": cached, "text": cached, "dtype": "fp32"}
    rows = {"path": str(dataset), "conditions": COLUMNS, "resolution": 64, "num_workers": 0, **data}
    recipe = Recipe.model_validate({"data": rows, "cache": cache, "train": {"batch": 4, "micro_batch": 2}})
    made = open_split(recipe, "train", training=True).with_caches(base)
    made.fill(ONE_PROCESS, lambda *_: None)
    return made


def equal(one: Batch, other: Batch) -> bool:
    return (one.keys, one.given) == (other.keys, other.given) and one.conditions.equal(other.conditions)


@pytest.mark.parametrize("kinds", [1, 2, 3, 5])
def test_chance_gives_any_of_them(kinds: int) -> None:
    """One, two, ... or all are as likely each, and so are all sets of so many; 1 is all."""
    found = Counter(given(kinds, draw) for draw in np.linspace(0, 1, 60000, endpoint=False))
    assert len(found) == 2**kinds - 1
    by_count = Counter[int]()
    for one, times in found.items():
        by_count[len(one)] += times
    assert all(times == pytest.approx(60000 / kinds, rel=0.01) for times in by_count.values())
    for one, times in found.items():
        alike = sum(len(other) == len(one) for other in found)
        assert times == pytest.approx(60000 / kinds / alike, rel=0.01)
    assert given(kinds, 1.0) == tuple(range(kinds))


def test_rows_have_the_maps_of_all_columns(dataset: Path, tmp_path: Path) -> None:
    """Behind each other, in the recipe's order; kinds are what the build says of each; alone, a column is as if named by itself."""
    data = Data(path=str(dataset), conditions=("canny", "hed", "tile"))
    rows = open_rows(data, "train", tmp_path)
    assert (rows.kinds, rows.kind, rows.conditions) == (KINDS, None, ("canny", "hed", "tile"))
    for number, column in enumerate(COLUMNS):
        one = open_rows(data.alone(column), "train", tmp_path)
        assert one.kind == rows.alone(number).kind == KINDS[number]
        assert [one[n].conditions for n in range(len(one))] == [
            rows.alone(number)[n].conditions for n in range(len(one))
        ]
        assert rows[0].conditions[number] == one[0].conditions[0]
    assert len({*rows[0].conditions}) == 3
    turned = open_rows(Data(path=str(dataset), conditions=("tile", "canny")), "train", tmp_path)
    assert turned.kinds == ("tile", "canny")
    assert turned.stamp != rows.stamp


def test_cached_rows_are_uncached_ones(dataset: Path, base: Base, tmp_path: Path) -> None:
    """Maps of all kinds, as decoded, from the cache, and from one of other kinds, which is another."""
    cached, plain = (filled(dataset, base, tmp_path / "kept", cached) for cached in (True, False))
    sampled = [SampledRow(number, 2) for number in range(4)]
    batch = cached.batch(sampled)
    assert equal(batch, plain.batch(sampled))
    assert batch.conditions.shape == (4, 9, 64, 64)
    maps = [np.concatenate([decode(one).rgb for one in cached.rows[n].conditions], 2) for n in range(4)]
    assert np.array_equal(batch.conditions.numpy(), np.stack(maps).transpose(0, 3, 1, 2))
    assert len({*batch.given}) > 1
    two = filled(dataset, base, tmp_path / "kept", conditions=["canny", "hed"])
    assert two.batch(sampled).conditions.equal(batch.conditions[:, :6])
    assert two.latents is not None
    assert cached.latents is not None
    assert two.latents.folder != cached.latents.folder


def test_maps_of_all_kinds_are_kept_as_latents(dataset: Path, tmp_path: Path) -> None:
    """Of a family that takes them so: behind each other, each as the VAE encodes it by itself; read they are what they are unread."""
    flux = load_base(Model(base=str(save_flow_base(tmp_path / "flux", "flux"))), kinds=KINDS)
    sampled = [SampledRow(number, 0) for number in range(3)]
    cached, plain = (filled(dataset, flux, tmp_path / "kept", cached) for cached in (True, False))
    batch, other = cached.batch(sampled), flux.complete(plain.batch(sampled))
    each = [flux.encode_pixels(batch.conditions[:, 3 * number : 3 * number + 3]).mean for number in range(3)]
    for hints in (batch.hints, other.hints):
        assert hints is not None
        torch.testing.assert_close(hints, torch.cat(each, 1), rtol=1e-4, atol=1e-5)


def test_grey_maps_are_kept_as_one_plane_each(dataset: Path, base: Base, tmp_path: Path) -> None:
    """Of two grey kinds the cache holds two planes a row, and gives six."""
    two = filled(dataset, base, tmp_path, conditions=["canny", "hed"])
    assert two.latents is not None
    (file,) = two.latents.folder.glob("conditions-*.npy")
    assert np.load(file).shape[1:] == (2, 64, 64)
    taken = two.cache_bytes()["latents"]
    latents = sum(path.stat().st_size for path in two.latents.folder.glob("*.npy"))
    assert taken == pytest.approx(latents, rel=0.01)


def test_mirrored_rows_have_all_maps_mirrored(dataset: Path, base: Base, tmp_path: Path) -> None:
    """With data.hflip = 1 each map is the mirror of what it is without."""
    mirrored = filled(dataset, base, tmp_path, hflip=1.0).batch([SampledRow(0, 0)])
    plain = filled(dataset, base, tmp_path).batch([SampledRow(0, 0)])
    assert mirrored.conditions.equal(plain.conditions.flip(3))


def test_what_is_given_follows_from_the_seed(dataset: Path, base: Base, tmp_path: Path) -> None:
    """Two loaders give the same, also one that goes on in the middle; another seed and another pass give other kinds."""
    split = filled(dataset, base, tmp_path)
    first, again = Loader(split, 2), Loader(split, 2)
    seen = [batch for batch, _ in zip(first, range(8))]
    again.load_state_dict({"updates": 2})
    for batch, other in zip(again, seen[4:]):
        assert equal(batch, other)
    assert len({given for batch in seen for given in batch.given}) > 3
    rows = [SampledRow(0, epoch) for epoch in range(20)]
    assert len({*split.batch(rows).given}) > 3


def test_streamed_rows_are_those_that_are_not(dataset: Path, base: Base, tmp_path: Path) -> None:
    """Given the same kinds, with the same maps, encoded when they come and found again."""
    plain = filled(dataset, base, tmp_path / "plain", max_rows=0)
    streamed = filled(dataset, base, tmp_path / "streamed", streaming=True)
    assert streamed.rows.kinds == KINDS
    sampled = [SampledRow(number, 0) for number in range(4)]
    wanted, latents = plain.batch(sampled), None
    for _ in ("encoded", "found"):
        batch = streamed.complete(streamed.batch(sampled))
        assert equal(batch, wanted)
        assert batch.latents is not None
        assert latents is None or latents.mean.equal(batch.latents.mean)
        latents = batch.latents


def test_parquet_files_are_read_alike(dataset: Path, tmp_path: Path) -> None:
    """A copy of files that are not read by number has the maps of all columns."""
    import datasets

    folder = tmp_path / "parquet" / "data"
    folder.mkdir(parents=True)
    datasets.load_from_disk(dataset)["train"].to_parquet(folder / "train-00000-of-00001.parquet")
    own, other = (
        open_rows(Data(path=str(path), conditions=("canny", "hed", "tile")), "train", tmp_path / f"kept-{path.name}")
        for path in (dataset, tmp_path / "parquet")
    )
    assert other.kinds == KINDS
    assert [other[n].conditions for n in range(len(other))] == [own[n].conditions for n in range(len(own))]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["canny", "tiles"], "data.conditions: .*did you mean tile"),
        (["canny", "text"], "holds no pictures"),
        (["canny", "conditioning_image"], "'conditioning_image' of .* has maps of kind canny, as 'canny' has"),
    ],
)
def test_columns_that_are_not_there_are_named(
    dataset: Path, tmp_path: Path, conditions: list[str], message: str
) -> None:
    """A column that the dataset has not, one without pictures, and one map twice under two names."""
    with pytest.raises(DataError, match=message):
        open_rows(Data(path=str(dataset), conditions=tuple(conditions)), "train", tmp_path)


def test_kinds_must_be_clear(tmp_path: Path) -> None:
    """Maps of which neither the dataset nor their pixels say what they are cannot be told apart from others."""
    odd = [{"bytes": png(picture(100 + row)), "path": None} for row in range(6)]
    folder = save_dataset(tmp_path / "ds", odd=odd)
    with pytest.raises(DataError, match=r"column 'odd' of .* has maps of a kind that is not clear"):
        open_rows(Data(path=str(folder), conditions=("conditioning_image", "odd")), "train", tmp_path)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"data": {"conditions": ["canny"]}}, "is one kind: say data.condition_column"),
        ({"data": {"conditions": ["canny", "hed", "canny"]}}, "names 'canny' twice"),
        ({"data": {"conditions": ["canny", "hed"], "kind": "canny"}}, "data.kind"),
        ({"data": {"conditions": ["canny", "hed"], "condition_column": "tile"}}, "data.condition_column"),
        (
            {"data": {"conditions": ["canny", "hed"]}, "eval": {"conditions": ["a.png"], "prompts": ["a"]}},
            "eval.conditions are maps of one kind",
        ),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(tables: dict[str, Any], message: str) -> None:
    """In words that name the keys."""
    with pytest.raises(RecipeError, match=message):
        parse_recipe(tables)


def test_a_listing_has_no_columns(tmp_path: Path) -> None:
    """Maps of several kinds are columns of a table."""
    for name in ("image", "conditioning_image"):
        save_pictures(tmp_path / "pairs" / name, 2)
    with pytest.raises(DataError, match=r"data\.conditions names columns"):
        open_rows(Data(path=str(tmp_path / "pairs"), conditions=("conditioning_image", "hed")), "train", tmp_path)


def unsaid(folder: Path) -> Path:
    """Columns `one`, of lines, and `two`, of thick ones, of which nobody says so; of held-out rows each looks like the other."""
    lines = [encoded(cv2.Canny(smooth(64, 64, row), 10, 20), "PNG") for row in range(8)]
    thick = [encoded(cv2.dilate(cv2.Canny(smooth(64, 64, row), 10, 20), np.ones((3, 3))), "PNG") for row in range(8)]
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    kinds = pa.schema({"image": image, "text": pa.string(), "one": image, "two": image})
    folder.mkdir()
    for split, one, two in (("train", lines, thick), ("validation", thick, lines)):
        stored = [
            {
                "image": {"bytes": encoded(smooth(64, 64, n), "PNG")},
                "text": "waves",
                "one": {"bytes": a},
                "two": {"bytes": b},
            }
            for n, (a, b) in enumerate(zip(one, two))
        ]
        pq.write_table(pa.Table.from_pylist(stored, kinds), folder / f"{split}.parquet")
    return folder


def test_a_column_has_one_name_in_training_and_wherever_it_is_looked_at(tmp_path: Path) -> None:
    """What the training takes the maps of a column for, held-out rows and an evaluation do, too, whatever theirs look like."""
    data = {"path": str(unsaid(tmp_path / "ds")), "resolution": 64, "num_workers": 0}
    rest = {"cache": {"dir": str(tmp_path / "kept")}, "train": {"batch": 4, "micro_batch": 2}}
    recipe = Recipe.model_validate({"data": data | {"conditions": ["one", "two"]}, **rest})
    train, held_out = open_splits(recipe)
    assert held_out
    assert open_split(recipe, "validation", training=False).rows.kinds == train.rows.kinds[::-1], "shows nothing"
    assert [(one.told, one.rows.conditions) for one in held_out.each] == [
        (one.told, one.rows.conditions) for one in train.each
    ]
    assert held_out.rows.kinds == held_out.transform.kinds == train.transform.kinds
    alone = Recipe.model_validate({"data": data | {"condition_column": "one"}, **rest})
    train, held_out = open_splits(alone)
    assert held_out
    assert held_out.rows.kind == train.rows.kind is not None
    known = open_split(alone, "validation", training=False, kinds=(None,))
    assert known.rows.kinds == (None,)  # nor does it know better than a training to which it was not clear


def test_an_evaluation_of_other_kinds_is_refused(dataset: Path, tmp_path: Path) -> None:
    """A dataset whose columns are of other kinds than those that were trained on: said, with what would be right."""
    data = {"path": str(dataset), "conditions": COLUMNS, "resolution": 64, "num_workers": 0}
    recipe = Recipe.model_validate({"data": data, "cache": {"dir": str(tmp_path)}})
    split = open_split(recipe, "train", training=False)
    with pytest.raises(
        DataError, match=r"has maps of canny, softedge, tile, and .* trained on canny, depth: .*--dataset"
    ):
        _told(split, Trained("depth", "", None, (), "depth", ("canny", "depth")))
