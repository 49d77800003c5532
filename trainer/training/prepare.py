"""Everything before the first update, in the order in which a mistake costs least."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from condprep.runtime.files import commit_text
from trainer.data.kept import cache_folder
from trainer.data.loader import Loader
from trainer.data.old_caches import outdated_notes
from trainer.data.open import open_splits
from trainer.data.split import Split
from trainer.inference.checkpoint_folder import Checkpoint
from trainer.models.base import Base
from trainer.models.families import load_base
from trainer.models.quantized import quantize
from trainer.recipe.layout import CHECKPOINTS, RECIPE
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml import dump_recipe
from trainer.training.checkpoint import Checkpoints, refuse_another_base
from trainer.training.journal import Journal
from trainer.training.loop import TrainingLoop
from trainer.training.plan import cut_captions, doubts, held_out_note
from trainer.training.preflight import preflight
from trainer.training.shards import block_names, shard
from trainer.training.sharing import with_sharing
from trainer.training.step import Learner, is_sharded
from trainer.training.validate import Validator
from trainer.training.writer import CheckpointWriter
from trainer.types import ProcessGroup, Say, ShowProgress, torch_dtype

if TYPE_CHECKING:
    from accelerate import Accelerator


def prepare(recipe: Recipe, accelerator: Accelerator, say: Say, progress: ShowProgress) -> TrainingLoop:
    """A loop that has only to be run: rows, checkpoint, base, ControlNet, a rehearsal, caches. Raises as `train` does."""
    group = ProcessGroup(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)
    if accelerator.device.type == "cpu" and recipe.train.device == "auto":
        say("PyTorch finds no GPU here: training on the CPU")
    say(f"looking at the rows of {recipe.data.path}")
    train, held_out = open_splits(recipe, group, progress)
    held = held_out_note(recipe, train, held_out)
    for note in [*train.rows.notes, held, *doubts(recipe, train), *outdated_notes(cache_folder(recipe))]:
        say(note)
    checkpoints = Checkpoints(Path(recipe.save.dir) / CHECKPOINTS, recipe.save.keep)
    checkpoint = choose_checkpoint(checkpoints, recipe, train, accelerator, say)
    say(f"loading the base model {recipe.model.base}")
    base = load_base(recipe.model, recipe.text, train.rows.kinds)
    base.refuse(recipe)
    for note in cut_captions(base, train.rows, recipe.text):
        say(note)
    if checkpoint:
        refuse_another_base(checkpoint, base.fingerprints)
    largest = max(train.buckets, key=lambda size: size[0] * size[1])
    learner = make_learner(with_sharing(recipe, base, largest, accelerator, say), accelerator, base)
    group = replace(group, together=learner.sharded)
    say("trying an update and a validation, of which nothing stays")
    micro_batch = preflight(learner, train, held_out, group, say)
    journal = make_journal(accelerator, recipe, checkpoint)
    train, held_out = fill_caches(learner.base, train, held_out, group, progress, say)
    validator = Validator(learner, held_out, group)
    loader = Loader(train, micro_batch, group, pin=accelerator.device.type == "cuda")
    loop = TrainingLoop(learner, loader, validator, CheckpointWriter(checkpoints), journal, say, progress)
    if checkpoint:
        loop.resume(checkpoint)
    if accelerator.is_main_process:
        commit_text(loop.folder / RECIPE, dump_recipe(recipe))
    return loop


def make_journal(accelerator: Accelerator, recipe: Recipe, checkpoint: Checkpoint | None) -> Journal:
    """As it was at the checkpoint, or empty."""
    if not checkpoint:
        return Journal(accelerator, recipe)
    return Journal(accelerator, recipe, checkpoint.update, checkpoint.manifest.get("lines", 0))


def choose_checkpoint(
    checkpoints: Checkpoints, recipe: Recipe, train: Split, accelerator: Accelerator, say: Say
) -> Checkpoint | None:
    """From which to go on; the main process chooses, for all."""
    from accelerate.utils import broadcast_object_list

    found: list[Checkpoint | None] = [None]
    if accelerator.is_main_process:
        found[0], notes = checkpoints.choose(recipe.save.resume, recipe.model_dump(mode="json"), train.fingerprint)
        checkpoints.tidy(found[0])
        for note in notes:
            say(note)
    broadcast_object_list(found)
    return found[0]


def make_learner(recipe: Recipe, accelerator: Accelerator, base: Base | None = None) -> Learner:
    """The recipe's base on the device, or this process's part of it, and a ControlNet that is to learn. base: if it is loaded."""
    if base is None:
        base = load_base(recipe.model, recipe.text)
        base.refuse(recipe)
    torch.manual_seed(recipe.train.seed)  # what a ControlNet does not take from the UNet is drawn
    controlnet = base.new_controlnet(recipe.model.init)
    if recipe.model.quantize != "none":
        quantize(base.denoiser, recipe.model.quantize)
    if is_sharded(recipe.train, accelerator.num_processes):
        base.denoiser.to(torch_dtype(recipe.train.precision))
        shard(base.denoiser, block_names(base.denoiser), accelerator, lent=base.lent)
    base.to(accelerator.device, torch_dtype(recipe.train.precision))
    return Learner(accelerator, base, controlnet, recipe)


def fill_caches(
    base: Base, train: Split, held_out: Split | None, group: ProcessGroup, progress: ShowProgress, say: Say
) -> tuple[Split, Split | None]:
    """The rows with filled caches; what is not needed any more leaves the device."""
    train, held_out = train.with_caches(base), held_out and held_out.with_caches(base)
    for split in filter(None, (train, held_out)):
        split.fill(group, progress, say)
    base.offload(**train.recipe.encoded_ahead)
    return train, held_out
