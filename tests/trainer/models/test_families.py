"""Base models: recognised, loaded frozen; text, latents and predictions are those of diffusers' pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DiffusionPipeline
from PIL import Image
from support.trainer_models import FAMILIES, TOKENS, rewrite, save_base

from trainer.models.families import Base, family_of, load_base
from trainer.recipe.recipe import Model
from trainer.types import Batch

CAPTIONS = ["a red disc", "", "a very long caption of a blue box that does not fit into so few tokens"]


def a_batch(base: Base, rows: int = 3, size: int = 64) -> Batch:
    pixels = torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8)
    ids = base.time_ids((size, size), (0, 0), (size, size))
    times = None if ids is None else torch.tensor([ids] * rows)
    keys = [str(row) for row in range(rows)]
    batch = Batch(keys, [0] * rows, CAPTIONS[:rows], pixels.flip(3), pixels=pixels, time_ids=times)
    return base.complete(batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_is_recognised_and_frozen(family: str, bases: dict[str, Base]) -> None:
    """The folder says the family and the prediction type; nothing of a base can be trained."""
    base = bases[family]
    assert base.family == ("sdxl" if family == "sdxl" else "sd")
    assert base.prediction_type == ("v_prediction" if family == "sd2" else "epsilon")
    assert base.factor == 8
    modules = [base.denoiser, base.vae, *base.text_encoders]
    assert not any(module.training for module in modules)
    assert not any(weight.requires_grad for module in modules for weight in module.parameters())
    assert {weight.dtype for module in modules for weight in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_what_the_pipeline_of_diffusers_makes(
    family: str, bases: dict[str, Base], folders: dict[str, Path]
) -> None:
    """encode_text equals `encode_prompt`, also of one that is too long; the empty caption is what no prompt is to it.

    A row does not depend on the others.
    """
    pipeline: Any = DiffusionPipeline.from_pretrained(folders[family])
    found = bases[family].encode_text(CAPTIONS)
    assert found["prompt_embeds"].shape[:2] == (3, TOKENS)
    check_text(found, pipeline, CAPTIONS)
    assert ("pooled" in found) == (family == "sdxl")
    alone = bases[family].encode_text(CAPTIONS[1:2])
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor, found[name][1:2])


def check_text(found: dict[str, Any], pipeline: Any, captions: list[str]) -> None:
    """As the pipeline encodes them; "" as a prompt that is not given."""
    made = pipeline.encode_prompt(captions, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    for name, own, nothing in zip(("prompt_embeds", "pooled"), made[::2], made[1::2]):
        for row, caption in enumerate(captions):
            torch.testing.assert_close(found[name][row], own[row] if caption else nothing[row])


@pytest.mark.parametrize("zeros", [False, True])
def test_a_base_says_whether_no_prompt_is_zeros(copy: Callable[[str], Path], zeros: bool) -> None:
    """SDXL's `force_zeros_for_empty_prompt`: embeddings and pooled text of "", the cache's key, and the pipeline of ours."""
    folder = copy("sdxl")
    rewrite("model_index.json", force_zeros_for_empty_prompt=zeros)(folder)
    base = load_base(Model(base=str(folder)))
    found = base.encode_text(CAPTIONS)
    check_text(found, DiffusionPipeline.from_pretrained(folder), CAPTIONS)
    assert all(tensor[1].any().item() != zeros for tensor in found.values())
    pipeline: Any = base.pipeline(base.new_controlnet("unet"))
    assert pipeline.config.force_zeros_for_empty_prompt == zeros
    rewrite("model_index.json", force_zeros_for_empty_prompt=not zeros)(folder)
    assert load_base(Model(base=str(folder))).fingerprints["text"] != base.fingerprints["text"]


def test_latents_are_the_posterior_in_the_denoisers_space(bases: dict[str, Base]) -> None:
    """mean and std are the VAE's, scaled; a draw from them equals diffusers' own, scaled."""
    base, pixels = bases["sd15"], torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    latents = base.encode_pixels(pixels)
    posterior = base.vae.encode(pixels / 127.5 - 1).latent_dist
    scale = base.vae.config.scaling_factor
    noise = torch.randn(2, 4, 8, 4, generator=torch.Generator().manual_seed(1))
    drawn = posterior.sample(torch.Generator().manual_seed(1)) * scale
    torch.testing.assert_close(latents.sample(noise), drawn)
    assert latents.mean.shape == latents.std.shape == (2, 4, 8, 4)
    assert (latents.std > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_controlnet_changes_nothing(family: str, bases: dict[str, Base]) -> None:
    """At step 0 the output equals the base model's, whatever the condition: zero convolutions."""
    base = bases[family]
    batch, noisy, timesteps = a_batch(base), torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 999])
    steered = base.predict(base.new_controlnet("unet"), noisy, timesteps, batch)
    plain = base.denoiser(noisy, timesteps, **base.condition_kwargs(batch, torch.float32)).sample
    assert torch.equal(steered, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prediction_is_the_plain_formula_of_diffusers(family: str, bases: dict[str, Base]) -> None:
    """predict equals ControlNet and UNet called as diffusers' pipelines call them, with a condition in [0, 1]."""
    base = bases[family]
    controlnet = trained(base)
    batch, noisy, timesteps = a_batch(base), torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 999])
    shared: dict[str, Any] = {"encoder_hidden_states": batch.text["prompt_embeds"]}
    if family == "sdxl":
        shared["added_cond_kwargs"] = {"text_embeds": batch.text["pooled"], "time_ids": batch.time_ids}
    out = controlnet(noisy, timesteps, controlnet_cond=batch.conditions.float() / 255, **shared)
    expected = base.denoiser(
        noisy,
        timesteps,
        down_block_additional_residuals=out.down_block_res_samples,
        mid_block_additional_residual=out.mid_block_res_sample,
        **shared,
    ).sample
    torch.testing.assert_close(base.predict(controlnet, noisy, timesteps, batch), expected)


def trained(base: Base) -> ControlNetModel:
    """A ControlNet whose zero convolutions are no longer zero."""
    controlnet = base.new_controlnet("unet")
    with torch.no_grad():
        for weight in controlnet.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return controlnet


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pipeline_draws_with_these_very_modules(family: str, bases: dict[str, Base]) -> None:
    """`pipeline` is diffusers' ControlNet pipeline; the condition changes what it draws."""
    base = bases[family]
    pipeline: Any = base.pipeline(trained(base))
    assert pipeline.unet is base.denoiser
    assert pipeline.vae is base.vae
    pipeline.set_progress_bar_config(disable=True)

    def drawn(colour: str) -> bytes:
        condition = Image.new("RGB", (64, 64), colour)
        how: dict[str, Any] = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
        picture: Image.Image = pipeline("a red disc", image=condition, **how).images[0]
        return picture.tobytes()

    assert drawn("white") == drawn("white") != drawn("black")


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_the_condition_embedder_follows_the_vae(factor: int, tmp_path: Path) -> None:
    """Any VAE's factor works: the condition arrives at the latents' size."""
    base = load_base(Model(base=str(save_base(tmp_path / "base", factor=factor))))
    batch = a_batch(base)
    assert batch.latents is not None
    assert base.factor == factor
    assert batch.latents.mean.shape[-1] == 64 // factor
    out = base.predict(base.new_controlnet("unet"), batch.latents.mean, torch.tensor([1, 2, 3]), batch)
    assert out.shape == batch.latents.mean.shape


def test_a_controlnet_can_be_continued(bases: dict[str, Base], tmp_path: Path) -> None:
    """`init` may be a ControlNet's folder: its weights are what training starts from."""
    controlnet = trained(bases["sd15"])
    controlnet.save_pretrained(tmp_path / "controlnet")
    again = bases["sd15"].new_controlnet(str(tmp_path / "controlnet"))
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, controlnet.state_dict()[name])
    assert all(weight.requires_grad for weight in again.parameters())


def test_fingerprints_follow_the_weights(copy: Callable[[str], Path], bases: dict[str, Base], tmp_path: Path) -> None:
    """Equal weights have equal fingerprints wherever they lie; another VAE, or another scale of it, has another."""
    folder = copy("sd15")
    assert load_base(Model(base=str(folder))).fingerprints == bases["sd15"].fingerprints
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.5}))
    scaled = load_base(Model(base=str(folder))).fingerprints
    assert scaled["vae"] != bases["sd15"].fingerprints["vae"]
    assert scaled["text"] == bases["sd15"].fingerprints["text"]


def test_another_vae_takes_the_place_of_the_bases_own(folders: dict[str, Path], tmp_path: Path) -> None:
    """`model.vae` names a folder whose VAE is used instead."""
    torch.manual_seed(5)
    AutoencoderKL.from_pretrained(folders["sd15"], subfolder="vae").save_pretrained(tmp_path / "vae")
    other = AutoencoderKL.from_config(AutoencoderKL.load_config(tmp_path / "vae"))
    other.save_pretrained(tmp_path / "vae")
    base = load_base(Model(base=str(folders["sd15"]), vae=str(tmp_path / "vae")))
    for name, weight in base.vae.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])


def test_the_recipe_may_say_what_the_base_predicts(folders: dict[str, Path]) -> None:
    """`prediction_type` overrules the base's scheduler, for training and for the pipeline alike."""
    base = load_base(Model(base=str(folders["sd15"]), prediction_type="v_prediction"))
    pipeline: Any = base.pipeline(base.new_controlnet("unet"))
    assert base.prediction_type == pipeline.scheduler.config.prediction_type == "v_prediction"


def test_a_vae_that_overflows_stays_in_float32(folders: dict[str, Path]) -> None:
    """In fp16 a VAE with force_upcast (SDXL's own) is not cast; in bf16, which has the range, it is."""
    base = load_base(Model(base=str(folders["sd15"])))
    assert base.vae.config.force_upcast
    base.to("cpu", torch.float16)
    assert (base.denoiser.dtype, base.vae.dtype) == (torch.float16, torch.float32)
    base.to("cpu", torch.bfloat16)
    assert base.vae.dtype == torch.bfloat16


def test_families_are_told_apart_without_loading_weights(folders: dict[str, Path]) -> None:
    """Two small JSON files say what a base is."""
    assert [family_of(folders[family]) for family in FAMILIES] == ["sd", "sd", "sdxl"]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_what_is_missing_is_trained_on_and_drawn_with_as_minus_one(family: str, bases: dict[str, Base]) -> None:
    """Of inpaint, black is -1 to the ControlNet, in an update as in the pipeline, and a tensor that has -1 itself stays as it is.

    That is `make_inpaint_condition` of diffusers' examples. Of other kinds black is 0.
    """
    base = replace(bases[family], missing=True)
    batch = a_batch(base, rows=2)
    batch.conditions[:, :, :20, 30:] = 0
    expected = torch.where((batch.conditions == 0).all(1, keepdim=True), -1.0, batch.conditions / 255)
    seen: list[Any] = []
    controlnet = base.new_controlnet("unet")
    controlnet.register_forward_pre_hook(
        lambda _, args, named: seen.append(named.get("controlnet_cond")), with_kwargs=True
    )
    noisy = torch.zeros(2, 4, 8, 8)
    with torch.no_grad():
        base.predict(controlnet, noisy, torch.tensor([1, 2]), batch)
        replace(base, missing=False).predict(controlnet, noisy, torch.tensor([1, 2]), batch)
    assert torch.equal(seen[0], expected)
    assert torch.equal(seen[1], batch.conditions / 255)
    picture = Image.fromarray(batch.conditions[0].permute(1, 2, 0).numpy())
    pipeline: Any = base.pipeline(controlnet)
    prepared = pipeline.control_image_processor.preprocess(picture)
    torch.testing.assert_close(prepared, expected[:1])
    assert torch.equal(pipeline.control_image_processor.preprocess(expected[:1]), expected[:1])
    plain: Any = replace(base, missing=False).pipeline(controlnet)
    assert plain.control_image_processor.preprocess(picture).min() == 0
