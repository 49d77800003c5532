"""One update: forward and backward passes, the optimizer's step, the average's; on this process and in step with the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.errors import TrainingStopped
from trainer.models.base import Base
from trainer.models.loss import draw_for_training, row_losses
from trainer.models.parts import buffers
from trainer.training.optimizer import effective_rate, make_optimizer
from trainer.training.shards import (
    block_names,
    blocks,
    cut,
    cut_state,
    joined,
    kept,
    outline,
    part,
    shard,
    whole,
    whole_state,
)
from trainer.training.state import LearnerState
from trainer.training.working_copy import WorkingCopy, is_wanted
from trainer.types import Batch, Draws, torch_dtype

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import ControlNetModel

    from trainer.recipe.recipe import Recipe, Train


@dataclass(frozen=True)
class StepResult:
    """What an update says of itself. Tensors stay on the device, so that nothing waits for it."""

    keys: list[str]  # of the rows of this process
    losses: Tensor  # (rows,)
    norm: Tensor  # of the gradients before clipping, a scalar


class Learner:
    """A base, on the device in the recipe's precision, and a ControlNet that learns to steer it, in fp32 or bf16.

    Everything random comes from the recipe's seed, the epoch and the rows' keys, so what is learned does not depend on
    how the rows of an update are shared out to forward passes and processes.
    """

    def __init__(self, accelerator: Accelerator, base: Base, controlnet: ControlNetModel, recipe: Recipe) -> None:
        self.accelerator, self.base, self.controlnet, self.recipe = accelerator, base, controlnet, recipe
        self.objective = base.objective.to(accelerator.device)
        self.sharded = is_sharded(recipe.train, accelerator.num_processes)
        self.outline = outline(controlnet) if self.sharded else controlnet  # what it is but for its weights
        self._place(controlnet)
        optimizer = make_optimizer(recipe.train, controlnet.parameters())
        self.working = WorkingCopy(controlnet) if is_wanted(recipe.train, accelerator.num_processes) else None
        computing = self.working.model if self.working else controlnet
        base.lend(computing)
        _configure(base, computing, recipe)
        if self.sharded:  # which is data parallel by itself: of accelerate it needs autocast alone
            self.prepared = accelerator.prepare_model(computing, device_placement=False, evaluation_mode=True)
            self.optimizer = accelerator.prepare(optimizer)
        else:
            self.prepared, self.optimizer = accelerator.prepare(computing, optimizer)
        self.ema = _average(controlnet, recipe)

    def _place(self, controlnet: ControlNetModel) -> None:
        """Onto the device, whole or a part of it, in the precision of what is trained."""
        train, device, weights = self.recipe.train, self.accelerator.device, torch_dtype(self.recipe.train.weights)
        if self.sharded:
            computing = torch_dtype(train.precision)
            controlnet.to(weights).train()
            shard(controlnet, block_names(self.base.denoiser), self.accelerator, computing)
            return
        _lay_out(self.base, controlnet, self.recipe, device.type)
        controlnet.to(device, weights).train()

    def accumulate(self, passes: int) -> None:
        """Fix how many forward passes an update has on this process."""
        self.accelerator.gradient_accumulation_steps = passes

    def step(self, batches: Iterable[Batch], rate: float) -> StepResult:
        """One update, at that learning rate. batches: one for each pass; together the update's rows of this process."""
        self.begin(rate)
        keys, losses, norm = [], [], None
        for batch in batches:
            with self.accelerator.accumulate(self.prepared):
                batch, draws = self.drawn(batch)
                of_rows = row_losses(self.base, self.prepared, self.objective, batch, draws)
                self.backward(of_rows, draws)
                if self.accelerator.sync_gradients:
                    norm = self.clip()
                self.optimizer.step()
                self.optimizer.zero_grad()
            keys += batch.keys
            losses.append(of_rows.detach())
        if self.ema:
            self.ema.step(self._where_the_average_is())
        assert norm is not None  # the last pass has synchronised
        return StepResult(keys, torch.cat(losses), norm)

    @property
    def rate(self) -> float:
        """Of the last update."""
        return effective_rate(self.optimizer)

    @property
    def average(self) -> list[Tensor]:
        """Of the parameters, in their order, or of this process's parts of them; empty where there is none."""
        return list(self.ema.shadow_params) if self.ema else []

    def _where_the_average_is(self) -> list[Tensor]:
        """The parameters, or this process's parts, in fp32 on the average's device: themselves, or a copy."""
        average = self.ema.shadow_params[0]
        return [part(parameter).detach().to(average).requires_grad_() for parameter in self.controlnet.parameters()]

    def begin(self, rate: float) -> None:
        """What comes before the passes of an update."""
        if self.working:
            self.working.refresh()
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def drawn(self, batch: Batch) -> tuple[Batch, Draws]:
        """The batch, complete and on the device, and what is random about its rows."""
        device = self.accelerator.device
        batch = self.base.complete(batch.to(device))
        draws = batch.draws or draw_for_training(batch, self.recipe.train, self.base.objective)
        return batch, draws.to(device)

    def backward(self, losses: Tensor, draws: Draws) -> None:
        """Gradients of the rows' weighted losses, (B,)."""
        weights = self.objective.weights(draws.timesteps, self.recipe.train)
        self.accelerator.backward((weights * losses).mean())

    def clip(self) -> Tensor:
        """Gradients to the recipe's norm. Returns what it was, a scalar."""
        limit = self.recipe.train.max_grad_norm or float("inf")
        norm: Tensor = self.accelerator.clip_grad_norm_(self.controlnet.parameters(), limit)
        return whole(norm.detach())

    def rehearse(self, batch: Batch) -> None:
        """All that an update does and needs, without a trace: its rate is 0, and the optimizer forgets it.

        Raises TrainingStopped where the loss is not finite, torch.OutOfMemoryError where it does not fit.
        """
        passes, self.accelerator.gradient_accumulation_steps = self.accelerator.gradient_accumulation_steps, 1
        scaler, groups = self.accelerator.scaler, self.optimizer.param_groups
        scale, settings = scaler.state_dict() if scaler else {}, [dict(group) for group in groups]
        self.begin(0.0)
        try:
            batch, draws = self.drawn(batch)
            with self.accelerator.no_sync(
                self.prepared
            ):  # else, but where weights are shared out, the others would wait for one without memory
                losses = row_losses(self.base, self.prepared, self.objective, batch, draws)
                self.backward(losses, draws)
            if not losses.isfinite().all():
                raise TrainingStopped(
                    'the loss of the very first batch is not a finite number; try train.precision = "fp32", and'
                    " if it is then finite, a VAE made for half precision (model.vae)"
                )
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad()
            self.optimizer.optimizer.state.clear()
            for group, before in zip(groups, settings):  # in which prodigy keeps what it has found
                group.clear()
                group.update(before)
            if scaler:
                scaler.load_state_dict(scale)
            self.accelerator.gradient_accumulation_steps = passes

    def weights(self, which: str) -> Iterator[Tensor]:
        """Those parameters, in their order: "raw", the last ones, or "best", the averaged ones where there are any.

        Where they are shared out, all processes have to come here together, and each is gathered when it is its turn.
        """
        parameters = [parameter.detach() for parameter in self.controlnet.parameters()]
        if which == "best" and self.ema:
            pairs = zip(parameters, self.average, strict=True)
            return (whole(joined(mine.to(like.device), like)) if self.sharded else mine for like, mine in pairs)
        return (whole(parameter) for parameter in parameters)

    def result(self, which: str) -> list[Tensor]:
        """Those parameters to be written, on the main process; empty on the others, which have to come here, too."""
        if self.sharded:
            return kept(self.weights(which), self.accelerator.is_main_process)
        return [*self.weights(which)]

    def snapshot(self) -> ControlNetModel:
        """A frozen copy of the best weights in the base's precision on its device, to be validated. All processes come here."""
        made = snapshot(self.outline, self.weights("best"), self.base.denoiser.dtype, self.accelerator.device)
        self.base.lend(made)
        return made

    def state(self) -> LearnerState:
        """Everything that the next update depends on, but the rows: the tensors themselves, which the next update changes.

        Where they are shared out, it is a copy of the whole, which the main process has; all have to come here.
        """
        scale = self.accelerator.scaler.state_dict() if self.accelerator.scaler else {}
        optimizer, own = self.optimizer.state_dict(), self.sharded
        if self.sharded:
            optimizer = whole_state(optimizer, self.accelerator.is_main_process)
        average = self.result("best") if self.ema else []
        return LearnerState(self.outline, self.result("raw"), optimizer, average, scale, own)

    @torch.no_grad()
    def restore(self, state: LearnerState, update: int) -> None:
        """Be as after that update."""
        parameters = [*self.controlnet.parameters()]
        for parameter, weight in zip(parameters, state.weights, strict=True):
            parameter.copy_(cut(weight, parameter))
        self.optimizer.load_state_dict(
            cut_state(dict(state.optimizer), parameters) if self.sharded else state.optimizer
        )
        if self.accelerator.scaler and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        if self.ema:
            for mine, weight, like in zip(self.ema.shadow_params, state.average, parameters, strict=True):
                mine.copy_(part(cut(weight, like)))
            self.ema.optimization_step = update


def _lay_out(base: Base, controlnet: ControlNetModel, recipe: Recipe, device: str) -> None:
    """As convolutions of a GPU want it. device: "cpu", "cuda"."""
    if device == "cuda":
        base.denoiser.to(memory_format=torch.channels_last)
        if recipe.train.optimizer != "adamw8bit":  # its first step would undo it, and a resumed run be no longer exact
            controlnet.to(memory_format=torch.channels_last)


def _configure(base: Base, controlnet: ControlNetModel, recipe: Recipe) -> None:
    """What is chosen for speed or memory: it changes no result but by rounding."""
    for model in (base.denoiser, controlnet):
        if recipe.train.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        if recipe.train.compile:
            compile_blocks(model, block_names(base.denoiser))


def compile_blocks(model: torch.nn.Module, names: set[str]) -> None:
    """Compile the blocks of these classes that a network repeats, once for each width, whatever the size of a bucket.

    A whole network would be compiled anew for every bucket, for minutes each.
    """
    torch._dynamo.config.recompile_limit = 64  # widths of a class; the default gives up after 8
    for block in blocks(model, names):
        block.compile(dynamic=True)


def _average(controlnet: ControlNetModel, recipe: Recipe) -> Any:
    """The moving average of diffusers, None where the recipe has none."""
    from diffusers.training_utils import EMAModel

    if not recipe.ema.enabled:
        return None
    average = EMAModel(map(part, controlnet.parameters()), decay=recipe.ema.decay, foreach=True)
    average.to("cpu" if recipe.ema.device == "cpu" else None, torch.float32)
    return average


def is_sharded(train: Train, processes: int) -> bool:
    """Whether weights are shared out to processes. Of one there is nothing to share."""
    return train.shard == "full" and processes > 1


def snapshot(
    controlnet: ControlNetModel, weights: Iterable[Tensor], dtype: torch.dtype, place: torch.device | None = None
) -> ControlNetModel:
    """A frozen copy in another dtype with other weights (its parameters' order), so that a validation disturbs no training.

    place: where it will be; None: with the ControlNet.
    """
    copy = outline(controlnet)
    names = [name for name, _ in controlnet.named_parameters()]
    # a copy even where the dtype is the same: assign would share the tensors with the training
    place = place or controlnet.device  # an average may lie elsewhere

    def copied(tensor: Tensor) -> Tensor:
        return tensor.detach().to(place, dtype if tensor.is_floating_point() else None, copy=True)

    state = {name: copied(tensor) for name, tensor in buffers(controlnet).items()}  # rounded, as a pipeline has them
    state |= {name: copied(weight) for name, weight in zip(names, weights)}
    copy.load_state_dict(state, assign=True)
    frozen: ControlNetModel = copy.requires_grad_(False).eval()
    return frozen
