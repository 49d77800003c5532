"""The families on a CUDA device that is not there: no operation of an update mixes devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.fake_cuda import fake_cuda, onto_cuda
from support.trainer_models import FAMILIES, save_base

from trainer.models.families import load_base
from trainer.models.loss import draw, row_losses
from trainer.models.objectives.diffusion import among
from trainer.recipe.recipe import Model, Train
from trainer.types import Batch

ROWS, SIDE = 2, 64


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_stays_on_the_device(family: str, tmp_path: Path) -> None:
    """From pixels and captions to the losses of rows: what was drawn on the CPU is copied, and nothing else is made there."""
    base = load_base(Model(base=str(save_base(tmp_path, family))))
    controlnet = base.new_controlnet("unet")
    times = base.time_ids((SIDE, SIDE), (0, 0), (SIDE, SIDE))
    with fake_cuda():
        for module in (base.denoiser, base.vae, *base.text_encoders, controlnet):
            onto_cuda(module)
        batch = Batch(
            keys=["a", "b"],
            epochs=[0, 0],
            captions=["a red disc", ""],
            conditions=torch.empty(ROWS, 3, SIDE, SIDE, dtype=torch.uint8),
            pixels=torch.empty(ROWS, 3, SIDE, SIDE, dtype=torch.uint8),
            time_ids=None if times is None else torch.tensor([times] * ROWS),
        )
        batch = base.complete(batch.to("cuda"))
        assert {tensor.device.type for tensor in batch.text.values()} == {"cuda"}
        objective = type(base.objective)(torch.empty(1000, device="cuda"))
        draws = draw(batch, seed=0, times=among(range(1000))).to("cuda")
        losses = row_losses(base, controlnet, objective, replace(batch, pixels=None), draws)
        weighted = objective.weights(draws.timesteps, Train(snr_gamma=5.0)) * losses
        assert weighted.device.type == "cuda"
        assert weighted.shape == (ROWS,)
