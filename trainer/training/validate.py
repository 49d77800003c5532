"""Validation: held-out losses, fidelity and pictures, on all processes, put into words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from trainer.data.loader import batches_to_keep_step, held_out_batches
from trainer.recipe.layout import SAMPLES
from trainer.training.condition_gap import HeldOutLosses, loss_sums, mean_losses
from trainer.training.samples import Samples
from trainer.types import ONE_PROCESS, ProcessGroup

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from trainer.data.split import Split
    from trainer.evaluation.monitor import FidelityMonitor
    from trainer.recipe.recipe import Recipe
    from trainer.training.step import Learner

AT_ONCE = 8  # rows of a forward pass
LATE = 0.5  # of the run: from then on it is worth a warning that the condition is not used


@dataclass(frozen=True)
class Validation:
    """What a validation has found; what the recipe does not ask for is empty."""

    losses: HeldOutLosses | None
    grid: Path | None  # of pictures, which the main process has written
    fidelity: dict[str, float]  # how pictures follow their conditions


class Validator:
    """Tries the learner's best weights: the same held-out rows and samples each time."""

    def __init__(self, learner: Learner, split: Split | None, group: ProcessGroup) -> None:
        """split: of the held-out rows; without them there are only pictures of `eval.conditions`."""
        self.learner, self.split, self.group = learner, split, group
        self.settings, self.seed = learner.recipe.eval, learner.recipe.train.seed
        self.samples = Samples.of(learner.recipe, split)
        self.monitors = self._monitors() if self.settings.fidelity else {}

    def validate(self, folder: Path, update: int) -> Validation:
        """Held-out losses, fidelity and a grid of pictures in the run's folder, as the recipe asks for them."""
        controlnet = self.learner.snapshot()
        with _uncompiled():
            losses, fidelity = self._losses(controlnet), self._fidelity(controlnet)
            pictures = self._pictures(controlnet) if self.samples.requests else []
        if not pictures:
            return Validation(losses, None, fidelity)
        path = folder / SAMPLES / f"{update:08d}.png"
        if self.group.rank == 0:
            self.samples.save_grid(path, pictures)
        return Validation(losses, path, fidelity)

    def rehearse(self) -> None:
        """A validation of one batch of rows and the largest sample, that leaves nothing behind."""
        controlnet = self.learner.snapshot()
        with _uncompiled():
            if self.split is not None and self.settings.loss_rows:
                batch = next(held_out_batches(self.split, AT_ONCE))
                loss_sums(self.learner.base, controlnet, self.learner.objective, [batch], self.seed)
            if self.samples.requests:
                with self._pipeline(controlnet) as pipe:
                    self.samples.rehearse(pipe)

    def _losses(self, controlnet: ControlNetModel) -> HeldOutLosses | None:
        if self.split is None or not self.settings.loss_rows:
            return None
        accelerator, kinds = self.learner.accelerator, self.learner.base.kinds
        sums = torch.stack([self._sums(self.split, controlnet, number) for number in range(len(kinds))])
        return mean_losses(accelerator.reduce(sums.to(accelerator.device), "sum").cpu(), kinds)

    def _sums(self, split: Split, controlnet: ControlNetModel, number: int) -> Tensor:
        """Of this process's rows, given the conditions of that number alone."""
        learner = self.learner
        own, further = (
            (batch.with_all_given([number]) for batch in batches(split, AT_ONCE, self.group))
            for batches in (held_out_batches, batches_to_keep_step)
        )
        sums = loss_sums(learner.base, controlnet, learner.objective, own, self.seed)
        loss_sums(learner.base, controlnet, learner.objective, further, self.seed)
        return sums

    def _monitors(self) -> dict[str | None, FidelityMonitor]:
        """Of each kind of conditions."""
        from trainer.evaluation.monitor import FidelityMonitor

        device = str(self.learner.accelerator.device)
        each = self.split.each if self.split else []
        return {one.told: FidelityMonitor.of(one.recipe, one, self.group, device) for one in each}

    def _fidelity(self, controlnet: ControlNetModel) -> dict[str, float]:
        """What the monitors measure; nothing where the recipe does not ask for it."""
        from trainer.evaluation.monitor import measure_each

        if not self.monitors:
            return {}
        with self._pipeline(controlnet) as pipe:
            return measure_each(self.monitors, pipe)

    def _pictures(self, controlnet: ControlNetModel) -> list[Image.Image]:
        """The samples; the processes share them out."""
        from accelerate.utils import gather_object

        count = len(self.samples.requests)
        mine = self.group.share(count)
        with self._pipeline(controlnet) as pipe:
            made = self.samples.generate(pipe, [self.samples.requests[number % count] for number in mine])
        found = sorted(gather_object(list(zip(mine, made))), key=lambda pair: pair[0])
        return [picture for _, picture in found[:count]]

    @contextmanager
    def _pipeline(self, controlnet: ControlNetModel) -> Iterator[Any]:
        """A pipeline of the base, what it needs on the device; afterwards it lies where it was.

        A VAE that stays in float32 is not cast to and fro, which would change its weights: the pipeline has a copy.
        """
        base, device = self.learner.base, self.learner.accelerator.device
        before = [(module, module.device) for module in base.resident]
        for module, _ in before:
            module.to(device)
        own = base.vae.dtype == base.denoiser.dtype
        try:
            vae = base.vae if own else deepcopy(base.vae).to(base.denoiser.dtype)
            yield replace(base, vae=vae).validation_pipeline(controlnet, self.settings.sampler)
        finally:
            for module, place in before:
                module.to(place)


def check_validation(recipe: Recipe, split: Split | None) -> None:
    """Raises what validations would fail with, and generates nothing: a condition's file, the annotator that measures fidelity."""
    if not recipe.eval.every:
        return
    Samples.of(recipe, split)
    if recipe.eval.fidelity and split is not None:
        from trainer.evaluation.monitor import FidelityMonitor

        for one in split.each:
            FidelityMonitor.of(one.recipe, one, ONE_PROCESS, "cpu")


def looked_at(recipe: Recipe, split: Split | None) -> dict[str, Any]:
    """What validations have in common whose numbers can be compared: the held-out rows, and how pictures are drawn for fidelity."""
    settings, rows = recipe.eval, split and split.fingerprint
    drawn = [settings.sampler, settings.sampler_steps, settings.cfg]
    return {"losses": [rows, settings.loss_rows], "fidelity": [rows, settings.fidelity_rows, *drawn]}


def comparable(
    metrics: Mapping[str, float], before: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[dict[str, float], list[str]]:
    """What a run that goes on remembers of its validations, and what it has to say. before, now: what is `looked_at`."""
    kept, notes, why = dict(metrics), list[str](), "from here on, by another data.validation or [eval]"
    if "val_loss" in kept and before.get("losses", now["losses"]) != now["losses"]:
        notes.append(
            f"held-out losses and condition gaps are of other rows {why}: those before do not compare with them"
        )
    if "best_fidelity" in kept and before.get("fidelity", now["fidelity"]) != now["fidelity"]:
        kept = {name: value for name, value in kept.items() if not name.startswith(("fidelity", "best_"))}
        notes.append(
            f"fidelity is of other rows, or of pictures that are drawn otherwise, {why}: the best one before is forgotten,"
            " and faithful/ will be what follows best since"
        )
    return kept, notes


def _uncompiled() -> AbstractContextManager[None]:
    """What is validated has sizes of its own, which are not worth minutes of compiling."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def losses_remark(losses: HeldOutLosses, update: int, total: int) -> str:
    """What the losses say to a person."""
    bands = "from the least noise to the most " + ", ".join(f"{gap:.2f}" for gap in losses.gaps)
    if losses.used or update < LATE * total:
        return f"update {update:,}: held-out loss {losses.loss:.4f}; {losses.sentence()} ({bands})"
    return (
        f"update {update:,} of {total:,}: held-out loss {losses.loss:.4f}; wrong conditions make no difference"
        f" ({losses.gap:.2f} x; {bands}), so the ControlNet does not follow them. It often comes suddenly, after thousands of"
        " updates; else check the pairs with `condprep verify`, raise train.batch or train.lr, or train longer"
    )
