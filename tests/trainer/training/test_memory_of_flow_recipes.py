"""Recipes of bases with a transformer are held to the peaks that they promise, at the real sizes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.flow_models import FLOWS
from support.flow_sizes import of_real_size

from trainer.models.quantized import quantize
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml import load_recipe
from trainer.training.memory import parameters, predict_memory
from trainer.training.optimizer import state_bytes

CONTEXT = 1.5e9  # what CUDA, its libraries and the allocator's fragments take of a device, bytes
GIB = 2**30
RECIPES = Path(__file__).parents[3] / "recipes"

# What forward and backward pass hold at 1024 pixels, a picture at a time, with bf16 weights, bytes: as `predict_memory` finds
# it in ten to twenty seconds for each.
PASSES = {"sd3": 2.95e9, "flux": 3.15e9, "qwen-image": 3.85e9, "z-image": 4.45e9}


@dataclass(frozen=True)
class Resident:
    """What lies on a device from the first update to the last, bytes."""

    base: int  # in bf16
    controlnet: int  # weights
    states: int  # of the optimizer

    def peak(self, family: str, *, quantize: str = "none", wide: bool = False, average: bool = False) -> float:
        """wide: fp32 weights, which with their gradients take two bytes more of each; average: on the device, too."""
        trained = self.controlnet // 2
        more = 4 * trained * wide + 4 * trained * average
        base = self.base if quantize == "none" else narrow(family, quantize)
        return base + self.controlnet + self.states + PASSES[family] + more


@pytest.fixture(scope="module")
def residents() -> dict[str, Resident]:
    return {family: resident(family) for family in FLOWS}


def resident(family: str) -> Resident:
    recipe = load_recipe(family)
    large = of_real_size(family, recipe.model.blocks)
    with torch.device("meta"):
        controlnet = large.new_controlnet("unet")
    positions = sum(buffer.nbytes for buffer in large.denoiser.buffers())  # of SD 3
    base = 2 * parameters(large.denoiser) + positions
    states = state_bytes(recipe.train.optimizer, [tuple(weight.shape) for weight in controlnet.parameters()])
    return Resident(base, 2 * parameters(controlnet), states)


def narrow(family: str, kind: Any) -> int:
    """What the base takes in 8 or 4 bits, bytes."""
    if kind == "nf4":
        pytest.importorskip("bitsandbytes", reason="needs the package bitsandbytes")
    denoiser = of_real_size(family, 1).denoiser.to(torch.bfloat16)
    quantize(denoiser, kind)
    return sum(tensor.nbytes for tensor in [*denoiser.parameters(), *denoiser.buffers()])


FITS = {  # GiB of a device -> of a recipe's settings there, those that differ from its own
    "sd3": {24: {}, 40: {"wide": True, "average": True}, 80: {"wide": True, "average": True}},
    "flux": {24: {"quantize": "fp8"}, 40: {}, 80: {"wide": True, "average": True}},
    "z-image": {24: {}, 40: {"wide": True}, 80: {"wide": True, "average": True}},
    "qwen-image": {24: {"quantize": "nf4"}, 40: {"quantize": "fp8"}, 80: {"wide": True}},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FLOWS)
def test_a_recipe_fits_where_it_says(family: str, residents: dict[str, Resident]) -> None:
    """On devices of 24, 40 and 80 GB, with what a device needs beside tensors; every peak that its head names is that of
    the settings that it is named for, within half a GB; and its own settings are bf16 weights, 8-bit states, no average there."""
    recipe, there = load_recipe(family), residents[family]
    assert recipe.train.weights == "bf16"
    assert (recipe.data.resolution, recipe.train.micro_batch, recipe.train.gradient_checkpointing) == (1024, 1, True)
    assert (recipe.train.optimizer, recipe.ema.device, recipe.model.quantize) == ("adamw8bit", "cpu", "none")
    said = promised(family)
    for gigabytes, settings in FITS[family].items():
        peak = there.peak(family, **settings)
        assert peak + CONTEXT < gigabytes * GIB, (gigabytes, settings)
        assert said[gigabytes] == pytest.approx(peak / 1e9, abs=0.5)


def promised(family: str) -> dict[int, float]:
    """Of the lines `24 GB: peak 13.4 GB ...` of a recipe's head."""
    head = (RECIPES / f"{family}.toml").read_text().split("[model]")[0]
    return {int(device): float(peak) for device, peak in re.findall(r"(\d+) GB: peak ([\d.]+) GB", head)}


@pytest.mark.parametrize("family", FLOWS)
def test_a_recipe_says_the_licence_of_its_base(family: str) -> None:
    """Aloud, in its head."""
    head = (RECIPES / f"{family}.toml").read_text().split("[model]")[0]
    assert "The licence of the base" in head
    assert ("Apache-2.0" in head) == (family != "sd3")
    assert ("may not be\n# used commercially" in head) == (family == "flux")


WHOLE = FLOWS if os.environ.get("CONDPREP_THOROUGH") else ("z-image",)


@pytest.mark.slow
@pytest.mark.parametrize("family", WHOLE)
def test_the_passes_of_an_update_are_what_is_counted_with(family: str, residents: dict[str, Resident]) -> None:
    """`predict_memory` at the real size gives what the other tests add up. Of the others where all is tried thoroughly."""
    recipe: Recipe = load_recipe(family)
    large, there = of_real_size(family, recipe.model.blocks), residents[family]
    found = predict_memory(large, recipe, (1024, 1024), 1)
    assert found.passes == pytest.approx(PASSES[family], abs=0.1e9)
    assert found.passes <= PASSES[family]
    assert found.models == pytest.approx(there.base + there.controlnet, rel=0.01)
    assert found.training == there.states
