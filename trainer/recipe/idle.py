"""Keys of a recipe that do nothing beside the others: they are told, since whoever has set one expects something of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.recipe.recipe import Recipe, by_key


@dataclass(frozen=True, slots=True)
class Idle:
    """Keys, when they do nothing, and by which other key that is."""

    keys: tuple[str, ...]
    when: Callable[[Recipe], bool]
    by: str


IDLE = (
    Idle(("train.power",), lambda r: r.train.schedule != "polynomial", "train.schedule"),
    Idle(("train.warmup",), lambda r: r.train.schedule == "constant", "train.schedule"),
    Idle(("train.betas", "train.eps"), lambda r: r.train.optimizer == "adafactor", "train.optimizer"),
    Idle(("ema.decay", "ema.device"), lambda r: not r.ema.enabled, "ema.enabled"),
    Idle(("text.keep",), lambda r: not r.text.shuffle, "text.shuffle"),
    Idle(("data.validation_by",), lambda r: not r.data.share, "data.validation"),
    Idle(("data.window", "cache.limit"), lambda r: not r.data.streaming, "data.streaming"),
    Idle(("cache.check",), lambda r: r.data.streaming, "data.streaming"),
    Idle(("model.revision",), lambda r: Path(r.model.base).exists(), "model.base"),
    Idle(("model.config",), lambda r: Path(r.model.base).is_dir(), "model.base"),
    Idle(("model.blocks",), lambda r: r.model.init != "unet", "model.init"),
    Idle(
        ("eval.samples", "eval.loss_rows", "eval.conditions", "eval.fidelity"), lambda r: not r.eval.every, "eval.every"
    ),
    Idle(("eval.samples",), lambda r: bool(r.eval.every and r.eval.conditions), "eval.conditions"),
    Idle(("eval.fidelity_rows",), lambda r: not r.eval.fidelity, "eval.fidelity"),
)


def idle_notes(recipe: Recipe) -> list[str]:
    """A line for each key that has another value than its default, and does nothing."""
    values, usual = by_key(recipe.model_dump(mode="json")), by_key(Recipe().model_dump(mode="json"))
    return [
        f"{key} = {json.dumps(values[key])} does nothing here, since {one.by} is {json.dumps(values[one.by])}"
        for one in IDLE
        if one.when(recipe)
        for key in one.keys
        if values[key] != usual[key]
    ]
