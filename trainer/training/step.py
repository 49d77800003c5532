"""One update: forward and backward passes, the optimizer's step, the average's; on this process and in step with the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.errors import TrainingStopped
from trainer.models.base import Base
from trainer.models.objective import Diffusion, Draws, draw, row_losses
from trainer.training.optimizer import make_optimizer
from trainer.types import Batch

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import ControlNetModel

    from trainer.recipe.recipe import Recipe

CONTROLNET, AVERAGE = "controlnet", "ema.safetensors"  # in a checkpoint


@dataclass(frozen=True)
class StepResult:
    """What an update says of itself. Tensors stay on the device, so that nothing waits for it."""

    keys: list[str]  # of the rows of this process
    losses: Tensor  # (rows,)
    norm: Tensor  # of the gradients before clipping, a scalar


class Learner:
    """A base, on the device in the recipe's precision, and a ControlNet in fp32 that learns to steer it.

    Everything random comes from the recipe's seed, the epoch and the rows' keys, so what is learned does not depend on
    how the rows of an update are shared out to forward passes and processes.
    """

    def __init__(self, accelerator: Accelerator, base: Base, controlnet: ControlNetModel, recipe: Recipe) -> None:
        self.accelerator, self.base, self.controlnet, self.recipe = accelerator, base, controlnet, recipe
        alphas = base.scheduler.alphas_cumprod.to(accelerator.device, torch.float32)
        self.diffusion = Diffusion(alphas, base.prediction_type)
        _configure(base, controlnet, recipe, accelerator.device.type)
        controlnet.to(accelerator.device).train()
        optimizer = make_optimizer(recipe.train, controlnet.parameters())
        self.prepared, self.optimizer = accelerator.prepare(controlnet, optimizer)
        self.ema = _average(controlnet, recipe)
        accelerator.register_save_state_pre_hook(self._save_plain)
        accelerator.register_load_state_pre_hook(self._load_plain)

    def accumulate(self, passes: int) -> None:
        """Fix how many forward passes an update has on this process."""
        self.accelerator.gradient_accumulation_steps = passes

    def step(self, batches: Iterable[Batch], rate: float) -> StepResult:
        """One update, at that learning rate. batches: one for each pass; together the update's rows of this process."""
        self.set_rate(rate)
        keys, losses, norm = [], [], None
        for batch in batches:
            with self.accelerator.accumulate(self.prepared):
                batch, draws = self.drawn(batch)
                of_rows = row_losses(self.base, self.prepared, self.diffusion, batch, draws)
                self.backward(of_rows, draws)
                if self.accelerator.sync_gradients:
                    norm = self.clip()
                self.optimizer.step()
                self.optimizer.zero_grad()
            keys += batch.keys
            losses.append(of_rows.detach())
        if self.ema:
            self.ema.step(self.controlnet.parameters())
        assert norm is not None  # the last pass has synchronised
        return StepResult(keys, torch.cat(losses), norm)

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def drawn(self, batch: Batch) -> tuple[Batch, Draws]:
        """The batch, complete and on the device, and what is random about its rows."""
        device = self.accelerator.device
        batch, timesteps = self.base.complete(batch.to(device)), range(len(self.diffusion.alphas))
        seed, pin = self.recipe.train.seed, device.type == "cuda"
        return batch, draw(batch, seed=seed, timesteps=timesteps, pin=pin).to(device)

    def backward(self, losses: Tensor, draws: Draws) -> None:
        """Gradients of the rows' weighted losses, (B,)."""
        weights = self.diffusion.weights(draws.timesteps, self.recipe.train.snr_gamma)
        self.accelerator.backward((weights * losses).mean())

    def clip(self) -> Tensor:
        """Gradients to the recipe's norm. Returns what it was, a scalar."""
        limit = self.recipe.train.max_grad_norm or float("inf")
        norm: Tensor = self.accelerator.clip_grad_norm_(self.controlnet.parameters(), limit)
        return norm.detach()

    def rehearse(self, batch: Batch) -> None:
        """All that an update does and needs, without a trace: its rate is 0, and the optimizer forgets it.

        Raises TrainingStopped where the loss is not finite, torch.OutOfMemoryError where it does not fit.
        """
        passes, self.accelerator.gradient_accumulation_steps = self.accelerator.gradient_accumulation_steps, 1
        scaler = self.accelerator.scaler
        scale = scaler.state_dict() if scaler else {}
        try:
            batch, draws = self.drawn(batch)
            with self.accelerator.no_sync(self.prepared):  # else the others would wait for one without memory
                losses = row_losses(self.base, self.prepared, self.diffusion, batch, draws)
                self.backward(losses, draws)
            if not losses.isfinite().all():
                raise TrainingStopped(
                    'the loss of the very first batch is not a finite number; try train.precision = "fp32", and'
                    " if it is then finite, a VAE made for half precision (model.vae)"
                )
            self.set_rate(0.0)
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad()
            self.optimizer.optimizer.state.clear()
            if scaler:
                scaler.load_state_dict(scale)
            self.accelerator.gradient_accumulation_steps = passes

    def weights(self, which: str) -> list[Tensor]:
        """Those parameters, in their order: "raw", the last ones, or "best", the averaged ones where there are any."""
        if which == "best" and self.ema:
            return list(self.ema.shadow_params)
        return [parameter.detach() for parameter in self.controlnet.parameters()]

    def snapshot(self) -> ControlNetModel:
        """A frozen copy of the best weights in the base's precision, to be validated."""
        return snapshot(self.controlnet, self.weights("best"), self.base.unet.dtype)

    def save(self, folder: Path) -> None:
        """Everything that the next update depends on, but the rows. Called by every process."""
        from safetensors.torch import save_file

        self.accelerator.save_state(str(folder))
        if self.ema and self.accelerator.is_main_process:
            shadows = {str(n): weight.contiguous() for n, weight in enumerate(self.ema.shadow_params)}
            save_file(shadows, folder / AVERAGE)

    def load(self, folder: Path, update: int) -> None:
        """What `save` wrote after that update."""
        from safetensors.torch import load_file

        self.accelerator.load_state(str(folder))
        self.accelerator.step = 0  # it counts passes, of which an update may have had more or fewer then
        if self.ema:
            shadows = load_file(folder / AVERAGE)
            for n, weight in enumerate(self.ema.shadow_params):
                weight.copy_(shadows[str(n)])
            self.ema.optimization_step = update

    def _save_plain(self, models: list[Any], weights: list[Any], folder: str) -> None:
        """The ControlNet as a folder of diffusers, whatever wraps it: one process can go on where several stopped."""
        weights.clear()
        if self.accelerator.is_main_process:
            self.controlnet.save_pretrained(Path(folder) / CONTROLNET)

    def _load_plain(self, models: list[Any], folder: str) -> None:
        models.clear()
        loaded = type(self.controlnet).from_pretrained(Path(folder) / CONTROLNET)
        self.controlnet.load_state_dict(loaded.state_dict())


def _configure(base: Base, controlnet: ControlNetModel, recipe: Recipe, device: str) -> None:
    """What is chosen for speed or memory: it changes no result but by rounding. device: "cpu", "cuda"."""
    if device == "cuda":
        base.unet.to(memory_format=torch.channels_last)
        if recipe.train.optimizer != "adamw8bit":  # its first step would undo it, and a resumed run be no longer exact
            controlnet.to(memory_format=torch.channels_last)
    for model in (base.unet, controlnet):
        if recipe.train.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        if recipe.train.compile:
            torch._dynamo.config.recompile_limit = 64  # each bucket's shape is a graph of its own
            model.compile(dynamic=False)


def _average(controlnet: ControlNetModel, recipe: Recipe) -> Any:
    """The moving average of diffusers, None where the recipe has none."""
    from diffusers.training_utils import EMAModel

    if not recipe.ema.enabled:
        return None
    return EMAModel(controlnet.parameters(), decay=recipe.ema.decay, foreach=True)


def snapshot(controlnet: ControlNetModel, weights: Iterable[Tensor], dtype: torch.dtype) -> ControlNetModel:
    """A frozen copy in another dtype with other weights (its parameters' order), so that a validation disturbs no training."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        copy = type(controlnet).from_config(controlnet.config)
    names = [name for name, _ in controlnet.named_parameters()]
    # a copy even where the dtype is the same: assign would share the tensors with the training
    state = {name: weight.detach().to(dtype, copy=True) for name, weight in zip(names, weights)}
    copy.load_state_dict(state, assign=True)
    frozen: ControlNetModel = copy.requires_grad_(False).eval()
    return frozen
