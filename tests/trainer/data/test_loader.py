"""What the loader's threads prepare: the draws of every row, and tensors that can be pinned as they are."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.noise import save_dataset
from support.trainer_models import save_base
from support.trainer_runs import silent

from trainer.data.loader import Loader, _held_out, held_out_batches
from trainer.data.open import open_split
from trainer.models.families import Base, load_base
from trainer.models.loss import draw
from trainer.models.objectives.diffusion import among
from trainer.recipe.recipe import Model
from trainer.recipe.toml import parse_recipe
from trainer.types import ONE_PROCESS


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(Model(base=str(save_base(tmp_path_factory.mktemp("base") / "sdxl", "sdxl"))))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("threads", [0, 2])
def test_draws_made_ahead_are_those_of_the_rows(
    cached: bool, threads: int, built: Path, base: Base, tmp_path: Path
) -> None:
    """Timesteps, noise and the posterior's draw equal those that the complete batch gives, cached or not, in threads or not."""
    recipe = parse_recipe(
        {
            "data": {"path": str(built), "resolution": 64, "num_workers": threads},
            "cache": {"dir": str(tmp_path), "latents": cached, "text": cached},
            "train": {"batch": 4, "micro_batch": 2, "seed": 5},
        }
    )
    split = open_split(recipe, "train", training=True).with_caches(base)
    split.fill(ONE_PROCESS, silent)
    for batch in islice(Loader(split, 2), 8):
        complete = base.complete(batch)
        expected = draw(complete, seed=5, times=among(range(1000)))
        assert batch.draws is not None
        assert batch.draws.timesteps.equal(expected.timesteps)
        assert batch.draws.noise.equal(expected.noise)
        assert batch.draws.posterior.equal(expected.posterior)
        assert batch.take([1]).draws.noise.equal(expected.noise[1:])  # type: ignore[union-attr]
        if batch.latents:
            assert batch.latents.mean.is_contiguous()
            assert batch.latents.std.is_contiguous()
    assert next(held_out_batches(split, 2)).draws is None


def test_held_out_losses_are_of_rows_from_everywhere() -> None:
    """Where another key of [eval] opens more rows than `loss_rows`, these are spread over all of them, as the others are."""
    split: Any = SimpleNamespace(buckets=[(64, 64)] * 100, recipe=parse_recipe({"eval": {"loss_rows": 4}}))
    assert [row.number for batch in _held_out(split, 3, ONE_PROCESS) for row in batch] == [0, 25, 50, 75]


def test_tags_are_shuffled_where_rows_are_trained_on(base: Base, tmp_path: Path) -> None:
    """In training every epoch has an order of its own, with the first tag in its place; looking at rows shuffles nothing."""
    tags = [f"row {n}, red, big, soft, old, wet" for n in range(6)]
    recipe = parse_recipe(
        {
            "data": {"path": str(save_dataset(tmp_path / "ds", text=tags)), "resolution": 64, "caption_dropout": 0.0},
            "text": {"shuffle": True},
            "cache": {"dir": str(tmp_path), "latents": False, "text": False},
            "train": {"batch": 6, "micro_batch": 6},
        }
    )
    one, two = (
        batch.captions for batch in islice(Loader(open_split(recipe, "train", training=True).with_caches(base), 6), 2)
    )
    assert {caption.partition(",")[0] for caption in one} == {f"row {n}" for n in range(6)}
    assert not set(one) & set(tags)
    assert sorted(one) != sorted(two)
    assert sorted(one) == sorted(
        next(iter(Loader(open_split(recipe, "train", training=True).with_caches(base), 6))).captions
    )
    looked_at = open_split(recipe, "train", training=False).with_caches(base)
    assert sorted(next(held_out_batches(looked_at, 6)).captions) == tags
