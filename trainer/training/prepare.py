"""Everything before the first update, in the order in which a mistake costs least."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from condprep.runtime.files import commit_text
from trainer.data.loader import Loader
from trainer.data.source import Progress, Source, open_sources
from trainer.models.base import Base
from trainer.models.families import load_base
from trainer.recipe.layout import CHECKPOINTS, RECIPE
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml import dump_recipe
from trainer.training.checkpoint import Checkpoint, Checkpoints
from trainer.training.journal import Journal
from trainer.training.loop import TrainingLoop
from trainer.training.machine import dtype
from trainer.training.preflight import preflight
from trainer.training.step import Learner
from trainer.training.validate import Validator
from trainer.types import ProcessGroup, Say

if TYPE_CHECKING:
    from accelerate import Accelerator


def prepare(recipe: Recipe, accelerator: Accelerator, say: Say, progress: Progress) -> TrainingLoop:
    """A loop that has only to be run: rows, checkpoint, base, ControlNet, a rehearsal, caches. Raises as `train` does."""
    group = ProcessGroup(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)
    if accelerator.device.type == "cpu" and recipe.train.device == "auto":
        say("PyTorch finds no GPU here: training on the CPU")
    rows, held_out = open_sources(recipe, group, progress)
    for note in rows.rows.notes:
        say(note)
    checkpoints = Checkpoints(Path(recipe.save.dir) / CHECKPOINTS, recipe.save.keep)
    checkpoint = choose_checkpoint(checkpoints, recipe, rows, accelerator, say)
    learner = make_learner(recipe, accelerator)
    micro_batch = preflight(learner, rows, held_out, group, say)
    journal = Journal(accelerator, recipe, checkpoint.update if checkpoint else 0)
    rows, held_out = fill_caches(learner.base, rows, held_out, group, progress)
    validator = Validator(learner, held_out, group)
    loader = Loader(rows, micro_batch, group, pin=accelerator.device.type == "cuda")
    loop = TrainingLoop(learner, loader, validator, checkpoints, journal, say, progress)
    if checkpoint:
        loop.resume(checkpoint)
    if accelerator.is_main_process:
        commit_text(loop.folder / RECIPE, dump_recipe(recipe))
    return loop


def choose_checkpoint(
    checkpoints: Checkpoints, recipe: Recipe, rows: Source, accelerator: Accelerator, say: Say
) -> Checkpoint | None:
    """From which to go on; the main process chooses, for all."""
    from accelerate.utils import broadcast_object_list

    found: list[Checkpoint | None] = [None]
    if accelerator.is_main_process:
        found[0], notes = checkpoints.choose(recipe.save.resume, recipe.model_dump(mode="json"), rows.fingerprint)
        for note in notes:
            say(note)
    broadcast_object_list(found)
    return found[0]


def make_learner(recipe: Recipe, accelerator: Accelerator) -> Learner:
    """The recipe's base on the device, and a ControlNet that is to learn."""
    base = load_base(recipe.model)
    torch.manual_seed(recipe.train.seed)  # what a ControlNet does not take from the UNet is drawn
    controlnet = base.new_controlnet(recipe.model.init)
    base.to(accelerator.device, dtype(recipe))
    return Learner(accelerator, base, controlnet, recipe)


def fill_caches(
    base: Base, rows: Source, held_out: Source | None, group: ProcessGroup, progress: Progress
) -> tuple[Source, Source | None]:
    """The rows with filled caches; what is not needed any more leaves the device."""
    rows, held_out = rows.with_caches(base), held_out and held_out.with_caches(base)
    for source in filter(None, (rows, held_out)):
        source.fill(group, progress)
    base.offload(vae=rows.recipe.cache.latents, text=rows.recipe.cache.text)
    return rows, held_out
