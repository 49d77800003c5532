"""What a recipe would do: rows, buckets, updates, bytes. `--dry-run` prints it, and everything that can be is checked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from condprep.images.geometry import Size
from trainer.data.split import open_splits
from trainer.models.families import load_base
from trainer.recipe.recipe import Recipe, Train
from trainer.training.machine import make_accelerator
from trainer.training.memory import predict_memory


@dataclass(frozen=True)
class TrainingPlan:
    """A run before it is begun. Sizes are (height, width)."""

    family: str
    kind: str | None  # of the conditions
    rows: int
    held_out: int  # rows that validation looks at
    buckets: Mapping[Size, int]  # rows of each
    resampled: int  # rows that are not at their training size
    updates: int
    batch: int  # pictures per update
    cache_bytes: int  # on disk; more by what the same folder holds of other recipes
    peak_bytes: int  # of a device, about; with one picture a forward pass where `micro_batch` is "auto"
    notes: Sequence[str]

    @property
    def epochs(self) -> float:
        return self.updates * self.batch / self.rows

    def public(self) -> dict[str, Any]:
        """As `--json` prints it."""
        buckets = {f"{width}x{height}": rows for (height, width), rows in self.buckets.items()}
        return vars(self) | {"buckets": buckets, "epochs": self.epochs, "notes": list(self.notes)}


def plan_training(recipe: Recipe) -> TrainingPlan:
    """Open the dataset and the base, check that they fit, and count. Nothing is encoded or trained.

    Raises what training would raise: DataError, ModelError, MachineError.
    """
    make_accelerator(recipe)
    train, validation = open_splits(recipe)
    base = load_base(recipe.model, recipe.text)
    base.new_controlnet(recipe.model.init)
    buckets = Counter(train.buckets)
    largest = max(buckets, key=lambda size: size[0] * size[1])
    micro_batch = 1 if recipe.train.micro_batch == "auto" else recipe.train.micro_batch
    return TrainingPlan(
        family=base.family,
        kind=train.rows.kind,
        rows=len(train.rows),
        held_out=len(validation.rows) if validation else 0,
        buckets=dict(buckets.most_common()),
        resampled=train.resampled,
        updates=total_updates(recipe.train, len(train.rows)),
        batch=recipe.train.batch,
        cache_bytes=sum(sum(one.with_caches(base).cache_bytes().values()) for one in (train, validation) if one),
        peak_bytes=predict_memory(base, recipe, largest, micro_batch).peak,
        notes=[*train.rows.notes, *([] if validation else ["no held-out rows: nothing is validated"])],
    )


def total_updates(train: Train, rows: int) -> int:
    """`steps`, or as many updates as `epochs` passes over the rows take."""
    return train.steps or math.ceil(train.epochs * rows / train.batch)
