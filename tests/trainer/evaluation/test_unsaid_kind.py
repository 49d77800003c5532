"""A dataset that does not say what its conditions are: what the training took them for holds for whatever looks at its rows later."""

from __future__ import annotations

from pathlib import Path

import cv2
import datasets
import numpy as np
import pytest
from support.noise import edges, png, save_dataset
from support.trainer_models import save_base
from support.trainer_runs import make_recipe

from trainer.data.open import open_split, open_splits
from trainer.evaluation.evaluate import evaluate
from trainer.training.train import train

ROWS = 8


def save_unsaid(folder: Path) -> None:
    """Edges to train on, and held-out ones so soft that they look like depth."""
    soft = [cv2.GaussianBlur(edges(row), (0, 0), 2) for row in range(ROWS)]
    stored = [{"bytes": png(one), "path": None} for one in soft]
    save_dataset(folder / "sharp", ROWS)
    save_dataset(folder / "soft", ROWS, conditioning_image=stored)
    splits = {"train": "sharp", "validation": "soft"}
    parts = {split: datasets.load_from_disk(str(folder / name))["train"] for split, name in splits.items()}
    datasets.DatasetDict(parts).save_to_disk(folder / "ds")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the condition looks like depth")  # which they do
def test_held_out_maps_are_taken_for_what_the_training_took_them(tmp_path: Path) -> None:
    """They are resampled as the training's edges are, by its validation and by an evaluation alike."""
    save_base(tmp_path / "base")
    save_unsaid(tmp_path)
    recipe = make_recipe(
        tmp_path,
        tmp_path / "output",
        data={"resolution": 128},
        train={"steps": 1, "warmup": 1},
        eval={"every": 1, "samples": 0, "loss_rows": ROWS, "cfg": 1.0},
    )
    train(recipe)
    held_out = open_splits(recipe)[1]
    assert held_out
    alone = open_split(recipe, "validation", training=False)
    assert alone.rows.kind != held_out.rows.kind, "both look alike: the test shows nothing"
    found = evaluate(tmp_path / "output", rows=ROWS, annotator="canny", device="cpu")
    for number, row in enumerate(found.arms["real"].rows):
        assert np.array_equal(row.condition, held_out.view(number)[1])
