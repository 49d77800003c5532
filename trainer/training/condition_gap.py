"""Is the condition used? The loss on held-out rows with their own conditions, and with another row's.

Rows, noise and timesteps are the same every time, so what changes between two validations is the ControlNet. The two
losses are compared band by band of timesteps, and the bands have equal votes: a base that predicts noise has most of its
loss where there is little noise, and conditions matter where there is much. At one timestep the errors of a prediction as
noise and as velocity are in one proportion, so the gap hardly depends on what the base predicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.evaluation.diagnosis import USED
from trainer.models.base import Base
from trainer.models.loss import draw, row_losses
from trainer.models.objectives.protocol import Objective
from trainer.types import Batch

if TYPE_CHECKING:
    from diffusers import ControlNetModel

BANDS = 4  # equal parts of the way from picture to noise


@dataclass(frozen=True)
class HeldOutLosses:
    """Held-out losses by band of timesteps, from the least noise to the most."""

    right: tuple[float, ...]
    shuffled: tuple[float, ...]  # same rows, noise and timesteps, but each with another row's condition
    kinds: Mapping[str, HeldOutLosses] = field(default_factory=dict)  # of several kinds of conditions, each alone

    @property
    def loss(self) -> float:
        return sum(self.right) / len(self.right)

    @property
    def gaps(self) -> list[float]:
        """Of each band: how many times larger the loss is with wrong conditions."""
        return [wrong / right for wrong, right in zip(self.shuffled, self.right)]

    @property
    def gap(self) -> float:
        """Their geometric mean: 1 where conditions make no difference."""
        return math.prod(self.gaps) ** (1 / len(self.gaps))

    @property
    def used(self) -> bool:
        """Whether the condition makes a difference; of several kinds, each."""
        return all(one.used for one in self.kinds.values()) if self.kinds else self.gap >= USED

    def sentence(self) -> str:
        each = "".join(f", {kind} {one.gap:.2f} x" for kind, one in self.kinds.items())
        if self.used:
            return f"the condition is being used: {self.gap:.1f} x{each}"
        return f"the condition is not used yet: {self.gap:.2f} x{each}"

    def metrics(self) -> dict[str, float]:
        bands = {f"val_loss_band{n}": loss for n, loss in enumerate(self.right)}
        gaps = {f"condition_gap_band{n}": gap for n, gap in enumerate(self.gaps)}
        each = {name: one for kind, held in self.kinds.items() for name, one in held.of_kind(kind).items()}
        return {"val_loss": self.loss, "condition_gap": self.gap, **bands, **gaps, **each}

    def of_kind(self, kind: str) -> dict[str, float]:
        """What of these is told of one kind of several."""
        return {f"val_loss_{kind}": self.loss, f"condition_gap_{kind}": self.gap}


def loss_sums(
    base: Base, controlnet: ControlNetModel, objective: Objective, batches: Iterable[Batch], seed: int
) -> Tensor:
    """(3, BANDS) float64 on the CPU: sums over rows of the losses with right and shuffled conditions, and the rows.

    controlnet: in the denoiser's dtype. Batches of one row have no other row to take a condition from: left out.
    """
    sums = torch.zeros(3, BANDS, dtype=torch.float64)
    for batch in batches:
        if len(batch) > 1:
            sums += _batch_sums(base, controlnet, objective, batch, seed)
    return sums


def mean_losses(sums: Tensor, kinds: Sequence[str | None] = (None,)) -> HeldOutLosses | None:
    """The means of sums of all processes, (K, 3, BANDS), a part for each of K kinds of conditions; None without a row."""
    if not sums[:, 2].all():
        return None
    means = sums[:, :2] / sums[:, 2:]
    each = [HeldOutLosses(tuple(right), tuple(shuffled)) for right, shuffled in means.tolist()]
    if len(each) == 1:
        return each[0]
    right, shuffled = means.mean(0).tolist()
    return HeldOutLosses(tuple(right), tuple(shuffled), dict(zip(map(str, kinds), each)))


@torch.no_grad()
def _batch_sums(base: Base, controlnet: ControlNetModel, objective: Objective, batch: Batch, seed: int) -> Tensor:
    batch = base.complete(batch.to(base.denoiser.device))
    shuffled = batch.with_others_conditions()
    sums = torch.zeros(3, BANDS, dtype=torch.float64)
    for band in range(BANDS):
        draws = draw(batch, seed=seed, times=objective.band(band, BANDS)).to(base.denoiser.device)
        for n, pairs in enumerate((batch, shuffled)):
            sums[n, band] = row_losses(base, controlnet, objective, pairs, draws).sum().cpu()
        sums[2, band] = len(batch)
    return sums
