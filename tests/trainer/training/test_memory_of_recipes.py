"""Recipes that promise to fit into so much memory are held to what is predicted for models of the real size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from support.trainer_models import save_base

from bench.bases import SDXL_UNET
from trainer.models.families import Base, load_base
from trainer.models.quantized import quantize
from trainer.recipe.recipe import Model
from trainer.recipe.toml import load_recipe
from trainer.training.memory import predict_memory

CONTEXT = 1.5e9  # what CUDA, its libraries and the allocator's fragments take of a device, bytes
GIB = 2**30


def sdxl(folder: Path) -> Base:
    """SDXL's UNet at its size, of shapes alone, and captions of its widths."""
    base = load_base(Model(base=str(save_base(folder / "sdxl", "sdxl"))))
    with torch.device("meta"):
        large = replace(base, denoiser=UNet2DConditionModel(**SDXL_UNET).requires_grad_(False))
    text = {"prompt_embeds": torch.zeros(1, 77, 2048), "pooled": torch.zeros(1, 1280)}
    large.encode_text = lambda captions: text  # type: ignore[method-assign]
    return large


def saved_by_eight_bits(base: Base) -> int:
    """Bytes of the UNet in bf16 beyond those in 8 bits."""
    wide = sum(parameter.numel() for parameter in base.denoiser.parameters()) * 2
    quantize(base.denoiser)
    kept = [*base.denoiser.parameters(), *base.denoiser.buffers()]
    return wide - sum(tensor.numel() * min(tensor.itemsize, 2) for tensor in kept)


@pytest.mark.slow
def test_sdxl_at_1024_fits_into_12_16_and_24_gigabytes(tmp_path: Path) -> None:
    """With what a device needs beside tensors. fp32 adds two bytes for each of 1.25 billion weights and of their gradients."""
    base, small, large = sdxl(tmp_path), load_recipe("sdxl-16gb"), load_recipe("sdxl-24gb")
    assert (small.data.resolution, small.train.micro_batch) == (1024, 1)
    found = predict_memory(base, small, (1024, 1024), 1)
    assert found.peak + CONTEXT < 16 * GIB
    assert large.model_copy(update={"train": small.train}) == small
    assert large.train.model_copy(update={"weights": "bf16"}) == small.train
    assert found.peak + 2 * (2 * 1.26e9) + CONTEXT < 24 * GIB
    least = load_recipe("sdxl-12gb")
    assert least.model_copy(update={"model": small.model}) == small
    assert least.model.model_copy(update={"quantize": "none"}) == small.model
    assert found.peak - saved_by_eight_bits(base) + CONTEXT < 12 * GIB
