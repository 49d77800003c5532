"""Training from a recipe to a result: everything is checked, then the updates are made, looked at and saved."""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trainer.data.loader import Loader
from trainer.data.sampler import Draw
from trainer.data.source import Progress, Source, open_sources
from trainer.models.families import Base, load_base
from trainer.recipe.layout import CHECKPOINTS
from trainer.recipe.recipe import Recipe
from trainer.training.checkpoint import Checkpoint, Checkpoints
from trainer.training.folder import own
from trainer.training.loop import Run, Say
from trainer.training.machine import dtype, make_accelerator
from trainer.training.metrics import Journal
from trainer.training.preflight import check_disk, fitting_micro_batch
from trainer.training.step import Learner
from trainer.training.validate import Validator
from trainer.types import Batch, ProcessGroup

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class TrainResult:
    """What a run made."""

    path: Path
    updates: int  # that the ControlNet has learned from, those before a resume included
    finished: bool  # False where a signal stopped it
    seconds: float
    metrics: dict[str, float]  # the newest of each


def train(recipe: Recipe, *, say: Say = lambda _: None, progress: Progress = lambda *_: None) -> TrainResult:
    """Train a ControlNet as a recipe says, from the newest checkpoint of its folder if there is one.

    say: is told what the user should know; progress: how far what. Raises a child of CondprepError, before the first
    update wherever that can be known: RecipeError, DataError, ModelError, MachineError, CheckpointError; and
    TrainingStopped for a loss that is not finite or a full disk.
    """
    began = time.perf_counter()
    accelerator = make_accelerator(recipe)
    if not accelerator.is_main_process:
        say, progress = lambda _: None, lambda *_: None
    folder = Path(recipe.save.dir)
    alone = own(folder) if accelerator.is_main_process else nullcontext()
    with alone, closing(_prepare(recipe, accelerator, say, progress)) as run:
        finished = run.go()
        if finished:
            run.finish()
    return TrainResult(folder, run.update, finished, time.perf_counter() - began, run.metrics)


def _prepare(recipe: Recipe, accelerator: Accelerator, say: Say, progress: Progress) -> Run:
    """Everything before the first update, in the order in which a mistake costs least."""
    group = ProcessGroup(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)
    if accelerator.device.type == "cpu" and recipe.train.device == "auto":
        say("PyTorch finds no GPU here: training on the CPU")
    rows, held_out = open_sources(recipe, group, progress)
    for note in rows.rows.notes:
        say(note)
    checkpoints = Checkpoints(Path(recipe.save.dir) / CHECKPOINTS, recipe.save.keep)
    start = _choose(checkpoints, recipe, rows, accelerator, say)
    base = load_base(recipe.model)
    torch.manual_seed(recipe.train.seed)  # what a ControlNet does not take from the UNet is drawn
    controlnet = base.new_controlnet(recipe.model.init)
    base.to(accelerator.device, dtype(recipe))
    learner = Learner(accelerator, base, controlnet, recipe)
    micro_batch = _rehearse(learner, rows, held_out, group, say)
    journal = Journal(accelerator, recipe, start.update if start else 0)
    rows, held_out = _encode(base, rows, held_out, group, progress)
    validator = Validator(learner, held_out, group)
    loader = Loader(rows, micro_batch, group, pin=accelerator.device.type == "cuda")
    run = Run(learner, loader, validator, checkpoints, journal, say, progress)
    if start:
        run.restore(start)
    return run


def _choose(
    checkpoints: Checkpoints, recipe: Recipe, rows: Source, accelerator: Accelerator, say: Say
) -> Checkpoint | None:
    """The main process chooses, for all."""
    from accelerate.utils import broadcast_object_list

    found: list[Checkpoint | None] = [None]
    if accelerator.is_main_process:
        found[0], notes = checkpoints.choose(recipe.save.resume, recipe.model_dump(mode="json"), rows.fingerprint)
        for note in notes:
            say(note)
    broadcast_object_list(found)
    return found[0]


def _rehearse(learner: Learner, rows: Source, held_out: Source | None, group: ProcessGroup, say: Say) -> int:
    """What would fail after hours fails here: disk, memory, a step, a validation. Returns the rows of a forward pass."""
    base, recipe = learner.base, learner.recipe
    parameters = sum(parameter.numel() for parameter in learner.controlnet.parameters())
    check_disk(Path(recipe.save.dir), parameters, recipe.save.keep, recipe.ema.enabled)
    batch = _largest(base, replace(rows, base=base), learner.accelerator)
    base.offload(vae=recipe.cache.latents, text=recipe.cache.text)
    micro_batch = fitting_micro_batch(learner, batch, say)
    base.to(learner.accelerator.device, dtype(recipe))
    Validator(learner, held_out and replace(held_out, base=base), group).rehearse()
    if held_out is None and not recipe.eval.conditions and recipe.eval.every:
        say("there are no held-out rows: nothing is validated (build the dataset with --validation 0.02)")
    return micro_batch


def _largest(base: Base, rows: Source, accelerator: Accelerator) -> Batch:
    """A few rows of the largest bucket, encoded, on the device."""
    buckets = rows.buckets
    largest = max(buckets, key=lambda size: size[0] * size[1])
    numbers = [number for number, bucket in enumerate(buckets) if bucket == largest][:4]
    batch = rows.batch([Draw(number, 0) for number in numbers])
    return replace(base.complete(batch.to(accelerator.device)), pixels=None)


def _encode(
    base: Base, rows: Source, held_out: Source | None, group: ProcessGroup, progress: Progress
) -> tuple[Source, Source | None]:
    """The rows with filled caches; what is not needed any more leaves the device."""
    cached = [source and source.with_caches(base) for source in (rows, held_out)]
    for source in filter(None, cached):
        source.fill(group, progress)
    base.offload(vae=rows.recipe.cache.latents, text=rows.recipe.cache.text)
    assert cached[0] is not None
    return cached[0], cached[1]
