"""A frozen base in 8 or 4 bits: the loss is within 1 % of what it was, gradients pass through, and those bits are all that is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from support.flow_models import save_flow_base
from support.learners import make_batch, stir
from support.thorough import slow_ones
from support.trainer_models import FAMILIES, save_base
from torch import nn

from trainer.errors import MachineError, ModelError
from trainer.models import quantized
from trainer.models.families import load_base
from trainer.models.loss import draw, row_losses
from trainer.models.objectives.diffusion import among
from trainer.models.quantized import (
    LARGEST,
    NARROW,
    WIDE,
    Quantized,
    check_quantizer,
    quantize,
    widened,
)
from trainer.recipe.recipe import Model, Recipe
from trainer.training import prepare
from trainer.training.checkpoint import differences
from trainer.training.machine import make_accelerator
from trainer.training.memory import predict_memory

LAYERS = {
    "linear": (nn.Linear(24, 16), (2, 5, 24)),
    "without a bias": (nn.Linear(24, 16, bias=False), (2, 24)),
    "convolution": (nn.Conv2d(6, 8, 3, padding=1), (2, 6, 9, 7)),
    "convolution that halves": (nn.Conv2d(6, 8, 3, stride=2, padding=1), (2, 6, 9, 8)),
    "convolution of one pixel": (nn.Conv2d(6, 8, 1), (2, 6, 4, 4)),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {family: save_base(tmp_path_factory.mktemp("bases") / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_flow_base(tmp_path_factory.mktemp("bases") / "flux", "flux")


def frozen(layer: Any) -> Any:
    return layer.requires_grad_(False)


def recipe(base: Path, quantize: str) -> Recipe:
    train = {"batch": 4, "micro_batch": 4, "precision": "fp32", "device": "cpu", "schedule": "constant", "lr": 1e-2}
    model = {"base": str(base), "quantize": quantize}
    return Recipe.model_validate({"model": model, "train": train, "log": {"tracker": "none"}})


@pytest.mark.parametrize("family", [*FAMILIES][:1] + slow_ones([*FAMILIES][1:]))
def test_the_loss_stays_within_one_per_cent(bases: Mapping[str, Path], family: str) -> None:
    """Same rows, noise and timesteps, and a ControlNet that steers: the loss, and where the gradient points."""
    found = []
    for narrow in (False, True):
        base = load_base(Model(base=str(bases[family])))
        torch.manual_seed(1)
        controlnet = base.new_controlnet("unet")
        stir(controlnet)
        if narrow:
            quantize(base.denoiser)
        batch = make_batch(base)
        draws = draw(batch, seed=0, times=among(range(1000)))
        loss = row_losses(base, controlnet, base.objective, batch, draws).mean()
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in controlnet.parameters()])))
    (before, expected), (after, gradient) = found
    assert 0 < abs(after / before - 1) < 0.01
    assert torch.cosine_similarity(gradient, expected, dim=0) > 0.98


def test_four_bits_are_for_transformers_and_need_their_package(
    bases: Mapping[str, Path], flux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A UNet is refused with what to say instead, and so is a machine without bitsandbytes, before anything is loaded."""
    unet, transformer = (load_base(Model(base=str(base), quantize="nf4")) for base in (bases["sd15"], flux))
    with pytest.raises(
        ModelError,
        match=r'model\.quantize = "nf4" is for bases of "sd3", "flux" and "qwen-image"; one of "sd" .*say "fp8"',
    ):
        unet.refuse(Recipe())
    transformer.refuse(Recipe())
    monkeypatch.setattr(quantized, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match=r'"nf4" needs bitsandbytes: pip install bitsandbytes, or say "fp8"'):
        make_accelerator(recipe(flux, "nf4"))
    check_quantizer("fp8")


def test_what_is_trained_is_not_quantized(bases: Mapping[str, Path], tmp_path: Path) -> None:
    """Neither by us, nor where a base, or a ControlNet to begin with, comes so: a sentence that says what to name instead."""
    with pytest.raises(ValueError, match="ControlNetModel is trained"):
        quantize(load_base(Model(base=str(bases["sd15"]))).new_controlnet("unet"))
    base = tmp_path / "base"
    shutil.copytree(bases["sd15"], base)
    config = json.loads((base / "unet" / "config.json").read_text())
    (base / "unet" / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(ModelError, match="unet has quantized weights, of which nothing can be trained or copied"):
        load_base(Model(base=str(base)))
    with pytest.raises(ModelError, match="unet has quantized weights"):
        load_base(Model(base=str(bases["sd15"]))).new_controlnet(str(base / "unet"))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_and_its_gradient_are_those_of_its_rounded_weight(name: str) -> None:
    """As PyTorch computes them with the very weight that the codes stand for."""
    layer, shape = LAYERS[name]
    ours = Quantized(frozen(layer))
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    result = ours(inputs)
    steer = torch.randn_like(result)
    (gradient,) = torch.autograd.grad((result * steer).sum(), inputs)
    plain = {"weight": widened(ours.codes, ours.scale, torch.float32)} | (
        {"bias": layer.bias} if layer.bias is not None else {}
    )
    expected = torch.func.functional_call(layer, plain, (inputs,))
    (reference,) = torch.autograd.grad((expected * steer).sum(), inputs)
    assert result.equal(expected)
    torch.testing.assert_close(gradient, reference)


def test_a_weight_is_off_by_no_more_than_its_rounding() -> None:
    """A sixteenth of itself, or half of the smallest step of its row, for rows of any size, zeros included."""
    sizes = torch.tensor([1e-3, 0.02, 1.0, 1e3, 0.0])[:, None]
    layer = nn.Linear(200, 5)
    layer.weight.data = torch.randn(5, 200, generator=torch.Generator().manual_seed(0)) * sizes
    ours = Quantized(frozen(layer))
    off = (widened(ours.codes, ours.scale, torch.float32) - layer.weight).abs()
    step = torch.finfo(NARROW).smallest_normal / 8
    assert (off <= torch.maximum(layer.weight.abs() / 16, ours.scale * step / 2)).all()
    assert (ours.scale * LARGEST >= layer.weight.abs().amax(1, keepdim=True)).all()


def test_no_cast_changes_the_weights(bases: Mapping[str, Path]) -> None:
    """A network that goes through bf16 and fp16 has the codes and scales that it had; its biases follow."""
    unet = frozen(UNet2DConditionModel.from_pretrained(bases["sd15"], subfolder="unet"))
    quantize(unet)
    layers = [module for module in unet.modules() if isinstance(module, Quantized)]
    before = [widened(layer.codes, layer.scale, torch.float32) for layer in layers]
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        unet.to(dtype)
        assert unet.dtype == dtype
    assert all(widened(one.codes, one.scale, torch.float32).equal(old) for one, old in zip(layers, before))


def test_every_layer_but_the_outermost_is_narrow(bases: Mapping[str, Path]) -> None:
    """What is left of linear layers and convolutions lies in WIDE."""
    unet = frozen(UNet2DConditionModel.from_pretrained(bases["sdxl"], subfolder="unet"))
    quantize(unet)
    left = {name.split(".")[0] for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    assert left == set(WIDE)


def test_between_the_passes_eight_bits_are_kept() -> None:
    """What a layer saves for its backward pass are its codes and scales, and no wide weight."""
    layer = Quantized(frozen(nn.Linear(64, 64)))
    saved: list[torch.Tensor] = []
    inputs = torch.randn(3, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        layer(inputs)
    assert sorted(tensor.nbytes for tensor in saved) == [64 * 4, 64 * 64]


def test_a_run_leaves_the_base_as_it_is(bases: Mapping[str, Path]) -> None:
    """The recipe's key makes the UNet narrow; an update changes the ControlNet, which began as the unrounded UNet, alone."""
    wide, chosen = (recipe(bases["sd15"], name) for name in ("none", "fp8"))
    learner = prepare.make_learner(chosen, make_accelerator(chosen))
    plain = prepare.make_learner(wide, make_accelerator(wide))
    began = [weight.clone() for weight in learner.weights("raw")]
    assert all(mine.equal(theirs) for mine, theirs in zip(began, plain.weights("raw")))
    codes = {name: value.clone() for name, value in learner.base.denoiser.state_dict().items()}
    assert any(name.endswith(".codes") for name in codes)
    assert learner.base.fingerprints == plain.base.fingerprints
    learner.accumulate(1)
    learner.step([make_batch(learner.base)], 1e-2)
    assert all(value.equal(codes[name]) for name, value in learner.base.denoiser.state_dict().items())
    assert not all(mine.equal(old) for mine, old in zip(learner.weights("raw"), began))


def test_a_run_does_not_go_on_with_other_weights(bases: Mapping[str, Path]) -> None:
    """A checkpoint of a run in 8 bits is another run's for a recipe without them, and the difference is named."""
    wide, narrow = (recipe(bases["sd15"], name).model_dump(mode="json") for name in ("none", "fp8"))
    assert "model.quantize" in str(differences(narrow, wide))
    assert not differences(narrow, narrow)


def test_what_was_not_tried_is_refused() -> None:
    """8 bits in a compiled model: a sentence with both keys, before anything is loaded."""
    with pytest.raises(ValueError, match=r'model\.quantize = "fp8" has not been tried with train\.compile = true'):
        Recipe.model_validate({"model": {"quantize": "fp8"}, "train": {"compile": True}})


@pytest.mark.slow
def test_the_prediction_counts_eight_bits(bases: Mapping[str, Path]) -> None:
    """What is kept of the base is what a quantized UNet takes in the run's precision."""
    base, chosen = load_base(Model(base=str(bases["sd15"]))), recipe(bases["sd15"], "fp8")
    predicted = predict_memory(base, chosen, (64, 64), 1)
    trained = sum(weight.nbytes for weight in base.new_controlnet("unet").parameters())
    quantize(base.denoiser)
    kept = sum(tensor.nbytes for tensor in [*base.denoiser.parameters(), *base.denoiser.buffers()])
    assert predicted.models == kept + trained
