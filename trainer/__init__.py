"""trainer: a dataset of condprep in, a ControlNet that follows its condition out."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "train": "trainer.training.train",
    "fork": "trainer.training.fork",
    "load_pipeline": "trainer.inference.pipeline",
    "sample": "trainer.inference.pipeline",
    "export": "trainer.inference.single_file",
    "evaluate": "trainer.evaluation.evaluate",
    "load_recipe": "trainer.recipe.toml",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, as in condprep."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
