"""A dataset with maps of three kinds, a batch of them, and what diffusers' models make of a row alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetUnionModel
from support.trainer_models import save_pictures
from torch import Tensor

import condprep
from trainer.models.families import Base
from trainer.models.loss import row_losses
from trainer.types import Batch, Draws

COLUMNS = ["canny", "hed", "tile"]
KINDS = ("canny", "softedge", "tile")
NUMBERS = {"canny": 3, "softedge": 2, "tile": 6}  # by which SDXL's union model knows them
GIVEN: Sequence[tuple[int, ...]] = ((0,), (1, 2), (0, 1, 2), (2,))


def build_kinds(folder: Path, rows: int = 12, **options: Any) -> Path:
    """Canny, HED's stand-in and tile, 64 px, a quarter of the rows for validation."""
    pictures = save_pictures(folder.with_name(folder.name + "-pictures"), rows)
    settings: dict[str, Any] = {"resolution": 64, "validation": 0.25} | options
    condprep.build(pictures, folder, ["canny", "hed:tensor", "tile"], **settings)
    return folder


def kinds_batch(base: Base, side: int = 64) -> Batch:
    """Four rows of noise, complete, each given other kinds."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (4, 3, side, side), generator=generator, dtype=torch.uint8)
    maps = torch.randint(0, 256, (4, 9, side, side), generator=generator, dtype=torch.uint8)
    sizes = base.time_ids((side, side), (0, 0), (side, side))
    times = None if sizes is None else torch.tensor([sizes] * 4)
    keys, captions = [f"row{n}" for n in range(4)], ["a disc", "a red box", "", "discs"]
    bare = Batch(keys, [0] * 4, captions, maps, pixels=pixels, time_ids=times, given=GIVEN)
    return replace(base.complete(bare), pixels=None)


def learns_as(
    base: Base, batch: Batch, controlnet: Any, plain: Any, draws: Draws, said: Callable[[Tensor, int], Tensor]
) -> None:
    """A row's loss is that of what `said` makes with `plain` of the noisy latents and a row; so are the gradients."""
    losses = row_losses(base, controlnet, base.objective, batch, draws)
    assert batch.latents is not None
    latents = batch.latents.sample(draws.posterior)
    noisy = base.objective.add_noise(latents, draws.noise, draws.timesteps)
    target = draws.noise - latents if base.hints else draws.noise  # of a flow, or the noise itself
    for row in range(len(batch)):
        wanted = (said(noisy, row) - target[row]).square().mean()
        assert losses[row].item() == pytest.approx(wanted.item(), rel=1e-5)
        wanted.backward()
    losses.sum().backward()
    for (name, mine), theirs in zip(controlnet.named_parameters(), plain.parameters(), strict=True):
        if mine.requires_grad:
            assert mine.grad is not None, name
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def told(controlnet: Any, maps: Mapping[str, Tensor]) -> dict[str, Any]:
    """How diffusers' own models are told of maps, (1, 3, H, W) in [0, 1]: as lists and numbers, or in channels."""
    if not isinstance(controlnet, ControlNetUnionModel):
        nothing = torch.zeros(1, 4, *next(iter(maps.values())).shape[2:])
        channels = [torch.cat([maps[kind], nothing[:, :1] + 1], 1) if kind in maps else nothing for kind in KINDS]
        return {"controlnet_cond": torch.cat(channels, 1)}
    numbers = [NUMBERS[kind] for kind in maps]
    types = torch.zeros(1, controlnet.config.num_control_type)
    types[0, numbers] = 1
    return {"controlnet_cond": [*maps.values()], "control_type": types, "control_type_idx": numbers}


def alone(controlnet: Any, base: Base, noisy: Tensor, timesteps: Tensor, batch: Batch, row: int) -> Any:
    """The residuals of one row, by a plain call of diffusers' model with the maps that the row is given."""
    one = batch.take([row])
    maps = {KINDS[n]: one.conditions[:, 3 * n : 3 * n + 3] / 255 for n in batch.given[row]}
    shared = base.condition_kwargs(one, noisy.dtype)
    return controlnet(
        noisy[row : row + 1], timesteps[row : row + 1], return_dict=False, **told(controlnet, maps), **shared
    )
