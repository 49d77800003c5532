"""Whole runs on rows that are streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.noise import save_shards
from support.trainer_models import save_base
from support.trainer_runs import equal, make_recipe, weights

from trainer.recipe.recipe import Recipe
from trainer.training.plan import plan_training
from trainer.training.train import train

COUNTS = [5, 3, 4, 6]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streamed")
    save_base(folder / "base")
    save_shards(folder / "ds", COUNTS)
    return folder


def recipe_of(place: Path, out: Path, steps: int, **data: Any) -> Recipe:
    streamed = {"path": str(place / "ds"), "resolution": 64, "num_workers": 1, "kind": "canny"}
    return make_recipe(
        place,
        out,
        data=streamed | {"streaming": True, "window": 8} | data,
        cache={"dir": str(out.parent / "kept")},
        train={"steps": steps, "batch": 4, "micro_batch": 2, "precision": "fp32", "lr": 1e-3, "warmup": 2},
        save={"dir": str(out), "every": 3},
    )


@pytest.mark.slow
def test_a_run_that_is_resumed_is_one_that_was_not(place: Path, tmp_path: Path) -> None:
    """Six updates equal three and three, in the second pass, weight for weight."""
    wanted = train(recipe_of(place, tmp_path / "whole" / "out", 6))
    out = tmp_path / "halves" / "out"
    train(recipe_of(place, out, 3))
    assert train(recipe_of(place, out, 6)).updates == wanted.updates == 6
    assert equal(weights(out), weights(wanted.path))
    assert wanted.metrics["epoch"] == pytest.approx(6 * 4 / sum(COUNTS))


def test_the_plan_says_what_is_known(place: Path, tmp_path: Path) -> None:
    """Rows and updates of all files, buckets of the first; as much cache as rows like those would take, or the limit."""
    plan = plan_training(recipe_of(place, tmp_path / "out", 9))
    assert (plan.rows, plan.updates, plan.buckets) == (sum(COUNTS), 9, {(64, 64): COUNTS[0]})
    assert "rows are streamed: 18 in 4 files, of which the first is looked at before the first update" in plan.notes
    latents = sum(COUNTS) * (64 * 64 + 8 * 8 * 4 * 2 * 2)
    assert latents < plan.cache_bytes < 2 * latents
