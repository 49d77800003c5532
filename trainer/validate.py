"""Is the condition followed? Held-out losses with right and with shuffled conditions, and pictures to look at.

Everything here is fixed by the recipe's seed: rows, noise, timesteps and the sampler's starting points are the same at
every validation, so what changes between two of them is the ControlNet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from trainer.families.base import Base
from trainer.loss import Diffusion, draw, row_losses
from trainer.types import Batch

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from trainer.recipe import Eval

BANDS = 4  # equal parts of the timesteps
USED = 1.05  # the condition gap from which on the condition is said to be used


@dataclass(frozen=True)
class HeldOut:
    """Held-out losses by band of timesteps, from the least noise to the most."""

    right: tuple[float, ...]
    shuffled: tuple[float, ...]  # same rows, noise and timesteps, but each with another row's condition

    @property
    def loss(self) -> float:
        return sum(self.right) / len(self.right)

    @property
    def gap(self) -> float:
        """How many times larger the loss is with wrong conditions: 1 where they make no difference."""
        return sum(self.shuffled) / sum(self.right)

    def sentence(self) -> str:
        if self.gap >= USED:
            return f"the condition is being used: {self.gap:.1f} x"
        return f"the condition is not used yet: {self.gap:.2f} x"

    def metrics(self) -> dict[str, float]:
        bands = {f"val_loss_band{n}": loss for n, loss in enumerate(self.right)}
        return {"val_loss": self.loss, "condition_gap": self.gap, **bands}


def held_out_sums(
    base: Base, controlnet: ControlNetModel, diffusion: Diffusion, batches: Iterable[Batch], seed: int
) -> Tensor:
    """(3, BANDS) float64 on the CPU: sums over rows of the losses with right and shuffled conditions, and the rows.

    controlnet: in the denoiser's dtype. Batches of one row have no other row to take a condition from: left out.
    """
    sums = torch.zeros(3, BANDS, dtype=torch.float64)
    for batch in batches:
        if len(batch) > 1:
            sums += _batch_sums(base, controlnet, diffusion, batch, seed)
    return sums


def held_out(sums: Tensor) -> HeldOut | None:
    """The means of (3, BANDS) sums of all processes; None without a row."""
    if not sums[2].all():
        return None
    right, shuffled = (sums[:2] / sums[2]).tolist()
    return HeldOut(tuple(right), tuple(shuffled))


@torch.no_grad()
def _batch_sums(base: Base, controlnet: ControlNetModel, diffusion: Diffusion, batch: Batch, seed: int) -> Tensor:
    batch = base.complete(batch.to(base.unet.device))
    shuffled = replace(batch, conditions=batch.conditions.roll(1, 0))
    edges = torch.linspace(0, len(diffusion.alphas), BANDS + 1).int().tolist()
    sums = torch.zeros(3, BANDS, dtype=torch.float64)
    for band, (start, end) in enumerate(pairwise(edges)):
        draws = draw(batch, seed=seed, timesteps=range(start, end)).to(base.unet.device)
        for n, pairs in enumerate((batch, shuffled)):
            sums[n, band] = row_losses(base, controlnet, diffusion, pairs, draws).sum().cpu()
        sums[2, band] = len(batch)
    return sums


@dataclass(frozen=True)
class Example:
    """What one picture is generated from, every time."""

    name: str  # of the row or the file
    condition: Image.Image  # RGB
    prompt: str
    original: Image.Image | None = None  # the row's own picture


def generate(
    pipe: Any, examples: Sequence[Example], settings: Eval, seed: int, steps: int | None = None
) -> list[Image.Image]:
    """A picture of each example. pipe: a ControlNet pipeline of diffusers. steps: other than the recipe's."""
    pipe.set_progress_bar_config(disable=True)
    pictures = []
    for number, example in enumerate(examples):
        made = pipe(
            example.prompt,
            image=example.condition,
            width=example.condition.width,
            height=example.condition.height,
            num_inference_steps=steps or settings.sampler_steps,
            guidance_scale=settings.cfg,
            generator=torch.Generator().manual_seed(seed + number),
        )
        pictures.append(made.images[0])
    return pictures


def grid(examples: Sequence[Example], pictures: Sequence[Image.Image]) -> list[Any]:
    """Pairs for condprep's contact sheet: condition | generated | original, with the prompt below."""
    from condprep.sheet import Pair

    rows = []
    for example, picture in zip(examples, pictures):
        originals = [example.original] if example.original else []
        rows.append(Pair([example.condition, picture, *originals], [example.prompt, example.name]))
    return rows


def snapshot(controlnet: ControlNetModel, weights: Iterable[Tensor], dtype: torch.dtype) -> ControlNetModel:
    """A frozen copy in another dtype with other weights (its parameters' order), so that looking disturbs no training."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        copy = type(controlnet).from_config(controlnet.config)
    names = [name for name, _ in controlnet.named_parameters()]
    # a copy even where the dtype is the same: assign would share the tensors with the training
    state = {name: weight.detach().to(dtype, copy=True) for name, weight in zip(names, weights)}
    copy.load_state_dict(state, assign=True)
    frozen: ControlNetModel = copy.requires_grad_(False).eval()
    return frozen
