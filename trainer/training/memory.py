"""How much memory an update will take, found without a device: the pass is run on tensors that have shapes but no bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from condprep.runtime.storages import peak_of
from trainer.models.parts import another_of
from trainer.models.quantized import quantize
from trainer.training.optimizer import state_bytes
from trainer.training.shards import block_names, gathered, parameters_of
from trainer.training.working_copy import WorkingCopy, is_wanted
from trainer.types import Batch, torch_dtype

if TYPE_CHECKING:
    from torch import nn

    from trainer.models.base import Base
    from trainer.recipe.recipe import Recipe


@dataclass(frozen=True)
class Memory:
    """Bytes on a device."""

    models: int  # frozen models, the ControlNet's weights, and the copy of them that is computed with
    training: int  # optimizer and average
    passes: int  # the most that forward and backward pass hold at once, gradients included

    @property
    def peak(self) -> int:
        return self.models + self.training + self.passes


def predict_memory(base: Base, recipe: Recipe, size: tuple[int, int], micro_batch: int, shares: int = 1) -> Memory:
    """What training takes with that many pictures of a size, (height, width) in pixels, in a forward pass.

    shares: processes that the weights are shared out to; of a network a block that computes, and the next one, are whole.

    Exact for the tensors of PyTorch; what libraries and the allocator's fragments take comes on top. The VAE and the text
    encoders count where they are needed beside the updates.
    """
    ahead = recipe.encoded_ahead
    kept = [*[base.vae] * (not ahead["vae"]), *base.text_encoders * (not ahead["text"])]
    width = torch_dtype(recipe.train.precision).itemsize
    learned = torch_dtype(recipe.train.weights)
    frozen = sum(parameters(module) for module in kept) * width
    text = base.text_shapes()
    fake, controlnet = _without_bytes(base, recipe)
    trained = parameters(controlnet)
    with FakeTensorMode():
        _fill(fake.denoiser, torch_dtype(recipe.train.precision), requires_grad=False)
        if recipe.model.quantize != "none":
            quantize(fake.denoiser, recipe.model.quantize)
        stay = parameters_of(fake.denoiser, base.lent)
        frozen += sum(weight.nbytes // (1 if weight in stay else shares) for weight in fake.denoiser.parameters())
        frozen += sum(buffer.nbytes for buffer in fake.denoiser.buffers())  # codes among them, which are not shared
        _fill(controlnet, learned, requires_grad=True)
        computing, copied = controlnet, 0
        if shares > 1:
            names = block_names(fake.denoiser)
            copied = width * max(gathered(fake.denoiser, names, stay), gathered(controlnet, names))
            _share_gradients(controlnet, shares)
        elif is_wanted(recipe.train, processes=1):
            working = WorkingCopy(controlnet, another_of(controlnet))  # fake, as all is here
            computing, copied = working.model, working.nbytes
        fake.lend(computing)
        batch = _batch(base, text, size, micro_batch)
        passes = peak_of(lambda: _pass(fake, computing, batch, recipe))
    average = 4 * trained if recipe.ema.enabled and recipe.ema.device == "auto" else 0
    average *= 1 + (learned != torch.float32)  # a copy of the weights in its precision, too
    shapes = [tuple(parameter.shape) for parameter in controlnet.parameters()]
    training = (state_bytes(recipe.train.optimizer, shapes) + average) // shares
    return Memory(frozen + learned.itemsize * trained // shares + copied, training, passes)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _share_gradients(controlnet: nn.Module, shares: int) -> None:
    """Of a gradient, as soon as it is there, a part alone is left."""
    parts: list[Tensor] = []

    def leave(weight: Tensor) -> None:
        parts.append(torch.empty(-(-weight.numel() // shares), dtype=weight.dtype))
        weight.grad = None

    for weight in controlnet.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(leave)  # type: ignore[no-untyped-call]


def _without_bytes(base: Base, recipe: Recipe) -> tuple[Base, Any]:
    """The base with a UNet, and a ControlNet, whose weights are shapes alone."""
    with torch.device("meta"):
        fake = replace(base, denoiser=another_of(base.denoiser))
        controlnet = fake.new_controlnet("unet").train()
    if recipe.train.gradient_checkpointing:
        fake.denoiser.enable_gradient_checkpointing()
        controlnet.enable_gradient_checkpointing()
    return fake, controlnet


def _fill(model: nn.Module, precision: torch.dtype, requires_grad: bool) -> None:
    """Weights of a device, to autocast and all kernels, in place of meta ones."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                learns = requires_grad and weight.requires_grad
                module._parameters[name] = torch.nn.Parameter(torch.empty(weight.shape, dtype=precision), learns)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        for name, table in vars(module).items():  # of positions, which are complex and no buffers
            if isinstance(table, Tensor):
                setattr(module, name, torch.empty(table.shape, dtype=table.dtype))


def _batch(base: Base, text: dict[str, tuple[int, ...]], size: tuple[int, int], rows: int) -> Batch:
    times, (channels, *latents) = base.time_ids(size, (0, 0), size), base.latent_shape(size)
    return Batch(
        keys=[""] * rows,
        epochs=[0] * rows,
        captions=[""] * rows,
        conditions=torch.zeros(rows, 3 * len(base.kinds), *size, dtype=torch.uint8),
        hints=torch.zeros(rows, len(base.kinds) * channels, *latents) if base.hints else None,
        text={name: torch.zeros(rows, *shape) for name, shape in text.items()},
        time_ids=None if times is None else torch.tensor([times] * rows),
        given=[tuple(range(len(base.kinds)))] * rows,
    )


def _pass(base: Base, controlnet: Any, batch: Batch, recipe: Recipe) -> None:
    """Forward and backward, as the learner does them."""
    rows, _, height, width = batch.conditions.shape
    precision = torch_dtype(recipe.train.precision)
    noisy = torch.zeros(rows, *base.latent_shape((height, width)))

    def autocast(*arguments: Any, **named: Any) -> Any:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            return controlnet(*arguments, **named)

    timesteps = torch.zeros(rows, dtype=torch.float32 if base.prediction_type == "flow" else torch.int64)
    loss: Any = base.predict(autocast, noisy.to(precision), timesteps, batch).float().square().mean()
    loss.backward()
