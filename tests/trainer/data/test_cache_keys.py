"""Whatever a batch depends on is in the name of its cache: a warm cache gives the very batches of a cold one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from support.noise import edges, picture, png
from support.thorough import slow_ones
from support.trainer_models import save_base
from support.trainer_runs import silent

from trainer.data import cache
from trainer.data.loader import Loader
from trainer.data.open import open_split
from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Data, Model, Text
from trainer.recipe.toml import parse_recipe
from trainer.types import ONE_PROCESS, Batch

ROWS, SIZE = 6, (64, 128)
CHANGES: dict[str, Any] = {
    "split": "other",
    "image_column": "another",
    "condition_column": "second",
    "conditions": ["conditioning_image", "depth"],
    "caption_column": "long",
    "mask_column": "second",
    "kind": "inpaint",  # resampled otherwise than lines, though by nearest neighbour, too
    "resolution": 64,
    "fit": "crop",
    "hflip": 1.0,
    "caption_dropout": 1.0,
    "max_rows": 4,
    "validation": 0.5,
    "validation_by": "group",
    "streaming": True,
    "window": 3,
}
WITH: dict[str, dict[str, Any]] = {  # what a key is tried with
    "validation_by": {"validation": 0.5},
    "window": {"streaming": True},
    "conditions": {"kind": "auto"},
}
ALL_ROWS = ("max_rows", "validation", "validation_by")  # look at all rows: not with streaming
WITHOUT_CACHE = {"crop"}  # random needs cache.latents = false
BESIDE = {"path", "num_workers"}  # say where rows lie and who reads them
TEXT_CHANGES: dict[str, Any] = {
    "captions": {"text": 0.5, "long": 0.5},
    "max_tokens": 150,
    "clip_skip": 1,
}
TEXT_WITHOUT_CACHE = {"shuffle", "keep"}  # shuffled captions need cache.text = false


@pytest.fixture(scope="module", params=["arrow", "parquet"])
def dataset(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two columns of each kind and two splits; Parquet is what is copied first."""
    folder = tmp_path_factory.mktemp(request.param) / "ds"
    seeds = {"train": 0, "other": 100}
    splits = {name: _rows(seed) for name, seed in seeds.items()}
    if request.param == "arrow":
        datasets.DatasetDict(splits).save_to_disk(folder)
    else:
        for name, rows in splits.items():
            (folder / "data").mkdir(parents=True, exist_ok=True)
            rows.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def _rows(seed: int) -> datasets.Dataset:
    def stored(pixels: np.ndarray) -> dict[str, Any]:
        return {"bytes": png(pixels), "path": None}

    numbers = range(seed, seed + ROWS)
    columns = {
        "image": [stored(picture(number, SIZE)) for number in numbers],
        "text": [f"short {number}" for number in numbers],
        "conditioning_image": [stored(edges(number, SIZE)) for number in numbers],
        "another": [stored(picture(number + 50, SIZE)) for number in numbers],
        "second": [stored(picture(number + 70, SIZE)[..., 0]) for number in numbers],
        "depth": [stored(picture(number + 90, SIZE)[..., 0]) for number in numbers],
        "long": [f"a longer caption {number}" for number in numbers],
        "source": [f"{number % 3}/{number}.png" for number in numbers],
    }
    rows = datasets.Dataset.from_dict(columns)
    for name in ("image", "conditioning_image", "another", "second", "depth"):
        rows = rows.cast_column(name, datasets.Image())
    return rows


@pytest.fixture(scope="module", autouse=True)
def two_a_shard() -> Iterator[None]:
    """Shards of two pictures: were a key without a value, most of them would have the sizes that are looked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "SHARD_BYTES", 3 * 128 * 128 * 2)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(Model(base=str(save_base(tmp_path_factory.mktemp("base") / "sd15", "sd15"))))


def batches(dataset: Path, base: Base, kept: Path, text: Mapping[str, Any] = {}, **data: Any) -> list[Batch]:
    """An epoch, read through the caches in `kept`."""
    usual = {"path": str(dataset), "resolution": 128, "num_workers": 0, "caption_dropout": 0.0, "kind": "canny"}
    tables = {
        "data": usual | data,
        "text": text,
        "cache": {"dir": str(kept), "dtype": "fp32"},
        "train": {"batch": 2, "micro_batch": 2},
    }
    split = open_split(
        recipe := parse_recipe(tables),
        (usual | data).get("split", "train"),
        training=True,
        most=data.get("max_rows", 0),
    ).with_caches(load_base(base.model, recipe.text) if text else base)
    split.fill(ONE_PROCESS, silent)
    return list(islice(Loader(split, 2), len(split.rows) // 2))


@pytest.fixture(scope="module")
def warm(dataset: Path, base: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Batch]]:
    """Caches that a run has filled, and its batches."""
    kept = tmp_path_factory.mktemp("warm")
    return kept, batches(dataset, base, kept)


def same(a: Batch, b: Batch) -> bool:
    assert a.latents is not None
    assert b.latents is not None
    return (
        (a.keys, a.captions) == (b.keys, b.captions)
        and torch.equal(a.conditions, b.conditions)
        and (a.mask is None) == (b.mask is None)
        and (a.mask is None or b.mask is None or torch.equal(a.mask, b.mask))
        and torch.equal(a.latents.mean, b.latents.mean)
        and all(torch.equal(a.text[name], b.text[name]) for name in a.text)
    )


def test_every_key_is_tried() -> None:
    """No key of [data] is forgotten here."""
    assert CHANGES.keys() | WITHOUT_CACHE | BESIDE == Data.model_fields.keys()


def test_every_key_of_captions_is_tried() -> None:
    """No key of [text] is forgotten here."""
    assert TEXT_CHANGES.keys() | TEXT_WITHOUT_CACHE == Text.model_fields.keys()


@pytest.mark.slow
@pytest.mark.parametrize("key", CHANGES)
def test_a_warm_cache_gives_the_batches_of_a_cold_one(
    key: str, dataset: Path, base: Base, tmp_path: Path, warm: tuple[Path, list[Batch]]
) -> None:
    """One key of the recipe is changed after a run has filled its caches: the batches are those of a run without any."""
    kept, before = warm
    change = {key: CHANGES[key]} | WITH.get(key, {})
    cold = batches(dataset, base, tmp_path / "cold", **change)
    assert all(same(a, b) for a, b in zip(batches(dataset, base, kept, **change), cold, strict=True))
    assert not all(map(same, before, cold)), "the change changes nothing: the test shows nothing"


@pytest.mark.slow
def test_a_stream_finds_what_it_would_encode(dataset: Path, base: Base, tmp_path: Path) -> None:
    """The same of rows that are streamed, whose latents are kept row by row: each key is changed with all that was kept before."""
    for key in CHANGES.keys() - ALL_ROWS:
        change = {key: CHANGES[key], "streaming": True} | WITH.get(key, {})
        cold, warm = (batches(dataset, base, tmp_path / kept, **change) for kept in (f"cold-{key}", "warm"))
        for one, other in zip(warm, cold, strict=True):
            assert one.latents is not None
            assert other.latents is not None
            assert (one.keys, one.captions) == (other.keys, other.captions)
            assert torch.equal(one.conditions, other.conditions)
            assert torch.allclose(one.latents.mean, other.latents.mean, atol=1e-5), key


@pytest.mark.parametrize("key", [*TEXT_CHANGES][:1] + slow_ones([*TEXT_CHANGES][1:]))
def test_captions_of_a_warm_cache_are_those_of_a_cold_one(
    key: str, dataset: Path, base: Base, tmp_path: Path, warm: tuple[Path, list[Batch]]
) -> None:
    """One key of [text] is changed after a run has filled its caches: the batches are those of a run without any."""
    kept, before = warm
    change = {key: TEXT_CHANGES[key]}
    cold = batches(dataset, base, tmp_path / "cold", change)
    assert all(same(a, b) for a, b in zip(batches(dataset, base, kept, change), cold, strict=True))
    assert not all(map(same, before, cold)), "the change changes nothing: the test shows nothing"


def test_other_weights_of_captions_encode_no_caption_anew(dataset: Path, base: Base, tmp_path: Path) -> None:
    """Every caption of every column is encoded once, whatever it is drawn with: more of one column, and the same files."""
    drawn = []
    for weight in (0.9, 0.1):
        made = batches(dataset, base, tmp_path / "kept", {"captions": {"long": 1.0, "text": weight}})
        drawn.append([caption for batch in made for caption in batch.captions])
    assert drawn[0] != drawn[1]
    assert len([*(tmp_path / "kept").glob("text-*")]) == 1
