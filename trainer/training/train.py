"""Training from a recipe to a result: prepare, run the loop, export."""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from trainer.inference.export import push, save_result
from trainer.recipe.recipe import Recipe
from trainer.training.folder import check_outside, own
from trainer.training.loop import TrainingLoop
from trainer.training.machine import accelerated
from trainer.training.prepare import prepare
from trainer.types import Measured, Say, ShowProgress


@dataclass(frozen=True)
class TrainResult:
    """What a run made."""

    path: Path
    updates: int  # that the ControlNet has learned from, those before a resume included
    finished: bool  # False where a signal stopped it
    seconds: float
    metrics: dict[str, float]  # the newest of each


def train(
    recipe: Recipe,
    *,
    say: Say = lambda _: None,
    progress: ShowProgress = lambda *_: None,
    measured: Measured = lambda _: None,
) -> TrainResult:
    """Train a ControlNet as a recipe says, from the newest checkpoint of its folder if there is one.

    say: is told what the user should know; progress: how far what; measured: the newest metrics. Raises a child of CondprepError, before the first
    update wherever that can be known: RecipeError, DataError, ModelError, MachineError, CheckpointError; and
    TrainingStopped for a loss that is not finite or a full disk.
    """
    began = time.perf_counter()
    with accelerated(recipe) as accelerator:
        if not accelerator.is_main_process:
            say, progress = lambda _: None, lambda *_: None
        check_outside(recipe)
        folder = Path(recipe.save.dir)
        alone = own(folder) if accelerator.is_main_process else nullcontext()
        with alone, closing(prepare(recipe, accelerator, say, progress)) as loop:
            loop.measured = measured if accelerator.is_main_process else loop.measured
            finished = loop.run()
            if finished:
                export(loop)
            accelerator.wait_for_everyone()
    return TrainResult(folder, loop.update, finished, time.perf_counter() - began, loop.metrics)


def export(loop: TrainingLoop) -> None:
    """The result of a loop in its folder, and on the Hub where the recipe says so. All processes come here, the main one writes."""
    recipe, learner = loop.recipe, loop.learner
    raw, average = learner.result("raw"), learner.result("best") if recipe.ema.enabled else None
    if not loop.accelerator.is_main_process:
        return
    save_result(loop.folder, learner.outline, raw, average, loop.training, loop.condition)
    loop.say(f"the ControlNet is in {loop.folder}")
    if recipe.save.push_to_hub:
        loop.say(f"pushed to {push(loop.folder, recipe.save.push_to_hub)}")
