"""What the families that flow are held to: the plain formulas of diffusers' scripts and pipelines, written out."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FluxControlNetPipeline, QwenImageControlNetPipeline
from support.learners import stir
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer.models.base import COPIED
from trainer.models.families import Base
from trainer.types import Batch

CAPTIONS = ["a red disc", "", "a very long caption of a blue box that does not fit into so few tokens"]


def a_batch(base: Base, size: tuple[int, int] = (64, 32), rows: int = 3) -> Batch:
    """Complete, of a bucket that is no square."""
    pixels, conditions = torch.randint(
        0, 256, (2, rows, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    keys = [str(row) for row in range(rows)]
    batch = Batch(keys, [0] * rows, CAPTIONS[:rows], conditions, pixels=pixels)
    return replace(base.complete(batch), pixels=None)


def trained(base: Base) -> Any:
    controlnet = base.new_controlnet(COPIED)
    stir(controlnet)
    return controlnet


def of_the_pipeline(family: str, pipeline: Any, captions: list[str]) -> dict[str, Tensor]:
    if family == "flux":
        made = pipeline.encode_prompt(captions, device="cpu")
        return {"prompt_embeds": made[0], "pooled": made[1]}
    if family == "qwen-image":
        made = pipeline.encode_prompt(captions, device="cpu")
        return {"prompt_embeds": made[0], "prompt_mask": made[1].float()}
    if family == "z-image":
        rows = pipeline.encode_prompt([*captions], device="cpu", do_classifier_free_guidance=False)[0]
        ones = [torch.ones(len(row)) for row in rows]
        return {"prompt_embeds": pad_sequence(rows, True), "prompt_mask": pad_sequence(ones, True)}
    made = pipeline.encode_prompt(captions, None, None, device="cpu", do_classifier_free_guidance=False)
    return {"prompt_embeds": made[0], "pooled": made[2]}


def plain_loss(base: Base, controlnet: Any, batch: Batch, draws: Any, precondition: bool = False) -> Tensor:
    """The formula of diffusers' train_controlnet_sd3.py, whose conditions are here the posterior's mean."""
    assert batch.latents is not None
    latents = batch.latents.mean + batch.latents.std * draws.posterior
    sigmas = draws.timesteps[:, None, None, None]
    noisy = (1.0 - sigmas) * latents + sigmas * draws.noise
    image = condition_latents(base, batch.conditions / 127.5 - 1)
    prediction = OUTPUT[base.family](base, controlnet, noisy, draws.timesteps * 1000, image, batch.text)
    target = draws.noise - latents
    if precondition:  # --precondition_outputs 1
        prediction, target = prediction * (-sigmas) + noisy, latents
    return F.mse_loss(prediction.float(), target.float(), reduction="mean")


def condition_latents(base: Base, conditions: Tensor) -> Tensor:
    """As the pipelines encode them, but that of Qwen-Image without chance."""
    config = base.vae.config
    if base.family != "qwen-image":
        image: Tensor = base.vae.encode(conditions).latent_dist.mode()
        return (image - config.shift_factor) * config.scaling_factor
    mean, std = (torch.tensor(each).view(1, 4, 1, 1, 1) for each in (config.latents_mean, config.latents_std))
    return ((base.vae.encode(conditions.unsqueeze(2)).latent_dist.mode() - mean) * (1.0 / std)).squeeze(2)


def of_sd3(base: Base, controlnet: Any, noisy: Tensor, timesteps: Tensor, image: Tensor, text: Any) -> Tensor:
    """As the script calls them."""
    said = {"encoder_hidden_states": text["prompt_embeds"], "pooled_projections": text["pooled"]}
    residuals = controlnet(hidden_states=noisy, timestep=timesteps, controlnet_cond=image, return_dict=False, **said)[0]
    output: Tensor = base.denoiser(
        hidden_states=noisy, timestep=timesteps, block_controlnet_hidden_states=residuals, return_dict=False, **said
    )[0]
    return output


def of_flux(base: Base, controlnet: Any, noisy: Tensor, timesteps: Tensor, image: Tensor, text: Any) -> Tensor:
    """As train_controlnet_flux.py calls them, with the packing and the positions of diffusers' pipeline."""
    rows, channels, height, width = noisy.shape
    pipe = FluxControlNetPipeline
    packed = pipe._pack_latents(noisy, rows, channels, height, width)
    shared = {
        "hidden_states": packed,
        "timestep": timesteps / 1000,
        "guidance": torch.full((rows,), 3.5) if base.denoiser.config.guidance_embeds else None,
        "pooled_projections": text["pooled"],
        "encoder_hidden_states": text["prompt_embeds"],
        "txt_ids": torch.zeros(text["prompt_embeds"].shape[1], 3),
        "img_ids": pipe._prepare_latent_image_ids(rows, height // 2, width // 2, "cpu", torch.float32),
        "return_dict": False,
    }
    cond = pipe._pack_latents(image, rows, channels, height, width)
    double, single = controlnet(controlnet_cond=cond, **shared)
    output = base.denoiser(controlnet_block_samples=double, controlnet_single_block_samples=single, **shared)[0]
    unpacked: Tensor = pipe._unpack_latents(output, height * 8, width * 8, 8)
    return unpacked


def of_qwen_image(base: Base, controlnet: Any, noisy: Tensor, timesteps: Tensor, image: Tensor, text: Any) -> Tensor:
    """As its pipeline calls them, with the pipeline's packing."""
    rows, channels, height, width = noisy.shape
    pipe = QwenImageControlNetPipeline
    shared = {
        "hidden_states": pipe._pack_latents(noisy, rows, channels, height, width),
        "timestep": timesteps / 1000,
        "encoder_hidden_states": text["prompt_embeds"],
        "encoder_hidden_states_mask": text["prompt_mask"].long(),
        "img_shapes": [(1, height // 2, width // 2)] * rows,
        "return_dict": False,
    }
    residuals = controlnet(controlnet_cond=pipe._pack_latents(image, rows, image.shape[1], height, width), **shared)
    output = base.denoiser(controlnet_block_samples=residuals, **shared)[0]
    unpacked: Tensor = pipe._unpack_latents(output, height * 8, width * 8, 8)
    return unpacked[:, :, 0]


def of_z_image(base: Base, controlnet: Any, noisy: Tensor, timesteps: Tensor, image: Tensor, text: Any) -> Tensor:
    """As its pipeline calls them, with a ControlNet into which that has registered the transformer's modules."""
    borrowing = copy(controlnet)
    borrowing._modules, borrowing._parameters = dict(controlnet._modules), dict(controlnet._parameters)
    borrowing = type(controlnet).from_transformer(borrowing, base.denoiser)
    said = [states[mask.bool()] for states, mask in zip(text["prompt_embeds"], text["prompt_mask"])]
    latents, time = list(noisy.unsqueeze(2).unbind(0)), (1000 - timesteps) / 1000
    residuals = borrowing(latents, time, said, image.unsqueeze(2))
    output = base.denoiser(latents, time, said, controlnet_block_samples=residuals)[0]
    return -torch.stack(output).squeeze(2)


OUTPUT: dict[str, Any] = {"sd3": of_sd3, "flux": of_flux, "qwen-image": of_qwen_image, "z-image": of_z_image}


def blocks(network: Any) -> Any:
    """Of a transformer or a ControlNet."""
    names = ("transformer_blocks", "control_layers", "layers")
    return next(getattr(network, name) for name in names if hasattr(network, name))
