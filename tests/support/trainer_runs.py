"""Whole runs of seconds: where they take place, their recipe, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from support.trainer_models import build_dataset, save_base, save_slim
from support.warm import Warm

from trainer.recipe.recipe import Recipe
from trainer.recipe.toml import dump_recipe


def make_place(folder: Path, rows: int) -> Path:
    """A folder with a tiny base, `base`, a ControlNet of it that runs begin with, `slim`, and a dataset of so many rows, `ds`."""
    save_base(folder / "base")
    save_slim(folder / "slim")
    build_dataset(folder / "ds", rows)
    return folder


def make_recipe(place: Path, out: Path, **tables: dict[str, Any]) -> Recipe:
    """20 updates of 4 rows in the folder `out`, from `slim` on where that is; tables: the keys that are different."""
    usual: dict[str, dict[str, Any]] = {
        "model": {"base": str(place / "base")} | ({"init": str(slim)} if (slim := place / "slim").is_dir() else {}),
        "data": {"path": str(place / "ds"), "resolution": 64, "num_workers": 1},
        "train": {
            "steps": 20,
            "batch": 4,
            "micro_batch": 2,
            "precision": "fp32",
            "lr": 1e-3,
            "warmup": 4,
            "device": "cpu",
        },
        "ema": {"decay": 0.9},
        "eval": {"every": 0, "samples": 2, "sampler_steps": 2, "loss_rows": 4},
        "log": {"every": 5, "tracker": "none"},
        "save": {"dir": str(out), "every": 10},
    }
    names = usual.keys() | tables.keys()
    return Recipe.model_validate({name: usual.get(name, {}) | tables.get(name, {}) for name in names})


def silent(*_: Any) -> None:
    """No progress is shown."""


def lines(out: Path) -> list[dict[str, float]]:
    """What metrics.jsonl holds of a run."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """A ControlNet's weights by name."""
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """The same weights under the same names, bit for bit."""
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def on_processes(warm: Warm, folder: Path, count: int, *tasks: str) -> tuple[int, str]:
    """Carry tasks of `support.sharded` out on so many processes. Returns the exit code, and what the processes said."""
    folder.mkdir(exist_ok=True)
    code, _, _ = warm.run(folder, "support.sharded", folder, count, *tasks)
    return code, "\n".join(path.read_text() for path in sorted((folder / f"said{count}").iterdir()))


def run_task(folder: Path, recipe: Recipe, kind: str = "train") -> str:
    """The task to carry a recipe out, which is written into the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "run.toml").write_text(dump_recipe(recipe))
    return f"{kind}=run"
