"""A dataset that changes while it is encoded: nothing is kept that could be of other rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.trainer_models import save_base
from support.trainer_runs import silent
from torch import Tensor

from trainer.data.open import open_split
from trainer.errors import DataError
from trainer.models.families import load_base
from trainer.recipe.recipe import Model
from trainer.recipe.toml import parse_recipe
from trainer.types import ONE_PROCESS, Latents


def test_a_dataset_that_changes_is_noticed(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written to in the middle of encoding: the run ends and says so, its latents are gone, and the next run makes them."""
    base = load_base(Model(base=str(save_base(tmp_path / "base"))))
    dataset = Path(shutil.copytree(built, tmp_path / "ds"))
    (file,) = (dataset / "train").glob("*.arrow")
    kept, encode = tmp_path / "kept", type(base).encode_pixels
    recipe = parse_recipe(
        {
            "data": {"path": str(dataset), "resolution": 64},
            "cache": {"dir": str(kept), "text": False},
            "train": {"batch": 2, "micro_batch": 2},
        }
    )

    def meanwhile(self: object, pixels: Tensor) -> Latents:
        file.write_bytes(file.read_bytes())  # the same rows, but who is to know
        return encode(self, pixels)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(type(base), "encode_pixels", meanwhile)
        split = open_split(recipe, "train", training=True).with_caches(base)
        with pytest.raises(DataError, match="has changed since it was opened"):
            split.fill(ONE_PROCESS, silent)
    assert not list(kept.rglob("*.npy"))
    open_split(recipe, "train", training=True).with_caches(base).fill(ONE_PROCESS, silent)
    assert list(kept.rglob("*.npy"))
