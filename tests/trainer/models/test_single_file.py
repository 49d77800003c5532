"""A base in one file: the very base of its folder; what is no whole model of a known family is refused with what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.single_file import save_single_file
from support.trainer_models import save_base

from trainer.errors import ModelError
from trainer.models.families import load_base
from trainer.models.single_file import family_of_names, said_schedule
from trainer.recipe.recipe import Model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("single") / "sd15")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return save_single_file(folder, folder.with_name("tiny.safetensors"))


def test_a_single_file_is_the_base_of_its_folder(folder: Path, file: Path) -> None:
    """Without a network: the same weights under the same fingerprints, text, latents and predictions."""
    expected, found = load_base(Model(base=str(folder))), load_base(Model(base=str(file), config=str(folder)))
    assert found.family == "sd"
    assert found.prediction_type == "epsilon"
    assert found.fingerprints == expected.fingerprints
    assert not any(weight.requires_grad for weight in found.denoiser.parameters())
    text = [base.encode_text(["a red disc"])["prompt_embeds"] for base in (found, expected)]
    assert text[0].equal(text[1])
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert found.encode_pixels(pixels).mean.equal(expected.encode_pixels(pixels).mean)
    pipeline: Any = found.pipeline(found.new_controlnet("unet"))
    assert pipeline.unet is found.denoiser


def test_half_weights_are_trained_from_in_float32(folder: Path, file: Path, tmp_path: Path) -> None:
    """As such files usually have them: the ControlNet starts in float32."""
    half = {name: weight.half() if weight.is_floating_point() else weight for name, weight in load_file(file).items()}
    save_file(half, tmp_path / "half.safetensors")
    base = load_base(Model(base=str(tmp_path / "half.safetensors"), config=str(folder)))
    modules = [base.denoiser, base.vae, *base.text_encoders, base.new_controlnet("unet")]
    assert {weight.dtype for module in modules for weight in module.parameters()} == {torch.float32}


def test_a_file_says_what_it_predicts(folder: Path, file: Path, tmp_path: Path) -> None:
    """By the tensors without numbers that programs know, or by its header: velocity, and a schedule that ends in noise alone."""
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    save_file(load_file(file) | marks, tmp_path / "v.safetensors")
    base = load_base(Model(base=str(tmp_path / "v.safetensors"), config=str(folder)))
    assert base.prediction_type == "v_prediction"
    assert base.scheduler.alphas_cumprod[-1] == 0
    assert base.sampler("auto").config.timestep_spacing == "trailing"
    assert said_schedule(set(), {"modelspec.prediction_type": "v"}) == {"prediction_type": "v_prediction"}
    assert said_schedule({"conv_in.weight"}, {"modelspec.prediction_type": "epsilon"}) == {}


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_pickles_are_not_opened(suffix: str, tmp_path: Path) -> None:
    """Whatever is in them: the message says what would be opened."""
    (tmp_path / f"model{suffix}").write_bytes(b"")
    with pytest.raises(ModelError, match="safetensors alone are opened, since others may run code"):
        load_base(Model(base=str(tmp_path / f"model{suffix}")))


def test_what_is_no_safetensors_is_said(tmp_path: Path) -> None:
    """A file of another content, or one that is cut off."""
    (tmp_path / "model.safetensors").write_bytes(b"PK\3\4 not at all")
    with pytest.raises(ModelError, match="is no file of safetensors"):
        load_base(Model(base=str(tmp_path / "model.safetensors")))


def test_a_file_that_lacks_a_weight_is_said(folder: Path, file: Path, tmp_path: Path) -> None:
    """Of a text encoder, which diffusers leaves without that one."""
    lacking = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc2.bias"
    save_file({name: weight for name, weight in load_file(file).items() if name != lacking}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"the text_encoder of .* its file has no encoder.layers.0.mlp.fc2.bias"):
        load_base(Model(base=str(tmp_path / "a.safetensors"), config=str(folder)))


def test_a_cut_file_is_said(file: Path, folder: Path, tmp_path: Path) -> None:
    """A download that ended early."""
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="is no file of safetensors"):
        load_base(Model(base=str(tmp_path / "cut.safetensors"), config=str(folder)))


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("model.diffusion_model.", r"no VAE, no text encoder .*first_stage_model\."),
        ("first_stage_model.", r"no UNet, no text encoder"),
        ("lora_unet", r"no UNet, no VAE, no text encoder"),
    ],
)
def test_a_part_of_a_model_is_no_base(keep: str, said: str, file: Path, tmp_path: Path) -> None:
    """A UNet, a VAE or a LoRA by itself: what is missing, and by which names it was looked for."""
    tensors = {name: weight for name, weight in load_file(file).items() if name.startswith(keep)}
    save_file(tensors or {"lora_unet_down.weight": torch.zeros(1)}, tmp_path / "part.safetensors")
    with pytest.raises(ModelError, match=rf"is no whole base model: it has {said}"):
        load_base(Model(base=str(tmp_path / "part.safetensors")))


def test_families_are_told_by_names() -> None:
    """SD and SDXL; SDXL's refiner, whose text encoder is another one, is neither."""
    both = {"model.diffusion_model.out.0.weight", "first_stage_model.quant_conv.weight"}
    assert family_of_names(Path("a"), both | {"cond_stage_model.model.x"}) == "sd"
    assert family_of_names(Path("a"), both | {f"conditioner.embedders.{n}.x" for n in range(2)}) == "sdxl"
    with pytest.raises(ModelError, match=r"no text encoder of SD 1\.5, SD 2\.x or SDXL"):
        family_of_names(Path("refiner.safetensors"), both | {"conditioner.embedders.0.model.x"})


def test_a_configuration_that_does_not_fit_is_said(file: Path, tmp_path: Path) -> None:
    """A folder of other shapes, and one that is not there."""
    with pytest.raises(ModelError, match=r"tiny\.safetensors' cannot be loaded"):
        load_base(Model(base=str(file), config=str(tmp_path / "missing")))
    other = save_base(tmp_path / "sd2", "sd2", factor=4)
    with pytest.raises(ModelError, match=r"tiny\.safetensors' cannot be loaded"):
        load_base(Model(base=str(file), config=str(other)))
