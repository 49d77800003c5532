"""A share of its rows that a recipe holds out, `data.validation = 0.25`: in a whole run, under two processes, and in an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.trainer_models import build_dataset, save_base
from support.trainer_runs import lines, make_recipe, on_processes, run_task
from support.warm import Warm

from trainer.data.open import open_splits
from trainer.evaluation.evaluate import evaluate
from trainer.recipe.recipe import Recipe
from trainer.training.train import train


def recipe(place: Path, out: Path) -> Recipe:
    """Three updates and a validation of held-out rows, of a dataset that has no split of them."""
    tables: dict[str, Any] = {
        "data": {"validation": 0.25},
        "train": {"steps": 3, "warmup": 1},
        "eval": {"every": 3, "samples": 0, "loss_rows": 6, "cfg": 1.0},
        "cache": {"dir": str(out.with_name("cache"))},
        "log": {"every": 3},
    }
    return make_recipe(place, out, **tables)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a dataset without held-out rows, and what one process has learned of it: `one/output`."""
    folder = tmp_path_factory.mktemp("share")
    save_base(folder / "base")
    build_dataset(folder / "ds", 32, validation=0.0)
    (folder / "one").mkdir()
    train(recipe(folder, folder / "one" / "output"))
    return folder


@pytest.mark.slow
def test_an_evaluation_looks_at_the_rows_that_were_held_out(place: Path) -> None:
    """Those of the run, and none that it learned from; beside them rows that it did learn from. The report says which share."""
    train_rows, held_out = open_splits(recipe(place, place / "one" / "output"))
    assert held_out is not None
    kept = {held_out.rows.key(n) for n in range(len(held_out.rows))}
    learned = {train_rows.rows.key(n) for n in range(len(train_rows.rows))}
    found = evaluate(place / "one" / "output", rows=3)
    keys = {name: {row.key for row in arm.rows} for name, arm in found.arms.items()}
    assert len(keys["controlnet"]) == len(keys["train rows"]) == 3
    assert keys["controlnet"] <= kept
    assert keys["train rows"] <= learned
    assert found.public()["settings"]["split"] == "0.25 of train"


@pytest.mark.slow
def test_two_processes_hold_out_the_rows_of_one(place: Path, warm: Warm) -> None:
    """Two CPUs (gloo), each with half of every update and of the held-out rows: the same rows, losses and gap."""
    folder = place / "two"
    code, said = on_processes(warm, folder, 2, run_task(folder, recipe(place, folder / "output")))
    assert code == 0, said[-2000:]
    assert "rows are held out, by data.validation = 0.25" in said
    one, two = (place / name / "output" for name in ("one", "two"))
    records = [json.loads((out / "training.json").read_text()) for out in (one, two)]
    assert records[0]["dataset"] == records[1]["dataset"]
    assert [record["processes"] for record in records] == [1, 2]
    for key in ("loss", "val_loss", "condition_gap"):
        first, second = ([line[key] for line in lines(out) if key in line] for out in (one, two))
        assert first == pytest.approx(second, rel=1e-4)
        assert first
