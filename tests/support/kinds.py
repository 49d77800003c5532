"""A dataset with maps of three kinds, a batch of them, and what diffusers' union model makes of a row alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support.trainer_models import save_pictures
from torch import Tensor

import condprep
from trainer.models.families import Base
from trainer.types import Batch

COLUMNS = ["canny", "hed", "tile"]
KINDS = ("canny", "softedge", "tile")
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
    times = torch.tensor([base.time_ids((side, side), (0, 0), (side, side))] * 4)
    keys, captions = [f"row{n}" for n in range(4)], ["a disc", "a red box", "", "discs"]
    bare = Batch(keys, [0] * 4, captions, maps, pixels=pixels, time_ids=times, given=GIVEN)
    return replace(base.complete(bare), pixels=None)


def alone(union: Any, base: Base, noisy: Tensor, timesteps: Tensor, batch: Batch, row: int) -> Any:
    """The residuals of one row, by a plain call of diffusers' model with the maps that the row is given."""
    one, numbers = batch.take([row]), [{"canny": 3, "softedge": 2, "tile": 6}[KINDS[kind]] for kind in batch.given[row]]
    told = torch.zeros(1, union.config.num_control_type)
    told[0, numbers] = 1
    return union(
        noisy[row : row + 1],
        timesteps[row : row + 1],
        controlnet_cond=[one.conditions[:, 3 * kind : 3 * kind + 3] / 255 for kind in batch.given[row]],
        control_type=told,
        control_type_idx=numbers,
        return_dict=False,
        **base.condition_kwargs(one, noisy.dtype),
    )
