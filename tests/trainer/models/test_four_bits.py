"""A frozen transformer in 8 or 4 bits: the loss is within 1 % of what it was; 4 bits are those of bitsandbytes, and all that is kept."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.flow_models import save_flow_base
from support.learners import make_batch, stir
from torch import nn

from trainer.models.families import load_base
from trainer.models.loss import draw_for_training, row_losses
from trainer.models.quantized import WIDE_OF_TRANSFORMERS, Quantized4, quantize, widened4
from trainer.recipe.recipe import Model, Recipe, Train
from trainer.training import prepare
from trainer.training.machine import make_accelerator
from trainer.training.memory import predict_memory

FAMILIES = ("sd3", "flux", "qwen-image")  # that nf4 is for

pytest.importorskip("bitsandbytes", reason="needs the package bitsandbytes")


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {family: save_flow_base(tmp_path_factory.mktemp("bases") / family, family) for family in FAMILIES}


def recipe(base: Path) -> Recipe:
    train = {"batch": 4, "micro_batch": 4, "precision": "fp32", "device": "cpu", "schedule": "constant", "lr": 1e-2}
    model = {"base": str(base), "quantize": "nf4"}
    return Recipe.model_validate({"model": model, "train": train, "log": {"tracker": "none"}})


@functools.cache
def learned(folder: Path, kind: Any) -> tuple[float, torch.Tensor]:
    """The loss of eight draws of noise and sigmas, and a gradient, with the base in so few bits; kind: None for as it is."""
    base = load_base(Model(base=str(folder)))
    torch.manual_seed(1)
    controlnet = base.new_controlnet("unet")
    stir(controlnet)
    if kind:
        quantize(base.denoiser, kind)
    batch = make_batch(base)
    losses = []
    for seed in range(8):
        draws = draw_for_training(batch, Train(seed=seed), base.objective)
        with torch.set_grad_enabled(seed == 0):
            losses.append(row_losses(base, controlnet, base.objective, batch, draws).mean())
    losses[0].backward()
    gradient = torch.cat([p.grad.flatten() for p in controlnet.parameters() if p.grad is not None])
    return sum(losses).item(), gradient


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["fp8", "nf4"])
def test_the_loss_of_a_flow_stays_within_one_per_cent(flows: Mapping[str, Path], family: str, kind: Any) -> None:
    """Same rows, noise and sigmas, eight draws of them: the loss, and where the gradient points."""
    (before, expected), (after, gradient) = (learned(flows[family], bits) for bits in (None, kind))
    assert 0 < abs(after / before - 1) < 0.01
    assert torch.cosine_similarity(gradient, expected, dim=0) > 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_four_bits_are_those_of_bitsandbytes(dtype: torch.dtype) -> None:
    """A layer and its gradient are those of the weight that bitsandbytes makes of its codes, whatever the network was cast to."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    layer = nn.Linear(96, 32).requires_grad_(False)
    codes, state = quantize_4bit(layer.weight.detach(), quant_type="nf4", blocksize=64)
    weight = dequantize_4bit(codes, state).to(dtype)
    ours = Quantized4(layer).to(torch.bfloat16).to(dtype)
    assert widened4(ours.codes, ours.scale, ours.values, dtype, shape=ours.shape).equal(weight)
    inputs = torch.randn(2, 5, 96, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    result = ours(inputs)
    steer = torch.randn_like(result)
    (gradient,) = torch.autograd.grad((result * steer).sum(), inputs)
    expected = nn.functional.linear(inputs, weight, ours.bias)
    (reference,) = torch.autograd.grad((expected * steer).sum(), inputs)
    assert result.equal(expected)
    torch.testing.assert_close(gradient, reference)
    assert sum(buffer.nbytes for buffer in ours.buffers()) == 96 * 32 * (1 / 2 + 4 / 64) + 16 * 4


def test_a_run_leaves_the_base_as_it_is(flows: Mapping[str, Path]) -> None:
    """The recipe's key makes every inner layer narrow, and no more; an update changes the ControlNet, and no code."""
    chosen = recipe(flows["flux"])
    learner = prepare.make_learner(chosen, make_accelerator(chosen))
    left = {
        name.split(".")[0] for name, module in learner.base.denoiser.named_modules() if isinstance(module, nn.Linear)
    }
    assert left <= set(WIDE_OF_TRANSFORMERS)
    codes = {name: value.clone() for name, value in learner.base.denoiser.state_dict().items()}
    began = [weight.clone() for weight in learner.weights("raw")]
    learner.accumulate(1)
    learner.step([make_batch(learner.base)], 1e-2)
    assert all(value.equal(codes[name]) for name, value in learner.base.denoiser.state_dict().items())
    assert not all(mine.equal(old) for mine, old in zip(learner.weights("raw"), began))


@pytest.mark.slow
def test_the_prediction_counts_four_bits(flows: Mapping[str, Path]) -> None:
    """What is kept of the base is what a quantized transformer takes, and passes need no more of it than a layer's weight."""
    base, chosen = load_base(Model(base=str(flows["flux"]))), recipe(flows["flux"])
    predicted = predict_memory(base, chosen, (64, 64), 1)
    trained = sum(weight.nbytes for weight in base.new_controlnet("unet").parameters())
    quantize(base.denoiser, "nf4")
    kept = sum(tensor.nbytes for tensor in [*base.denoiser.parameters(), *base.denoiser.buffers()])
    assert predicted.models == kept + trained
