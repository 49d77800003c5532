"""Transformers of the sizes that are trained, without weights: what their recipes promise is held to them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from support.flow_models import make_vae

from trainer.models.families import FAMILIES, Base
from trainer.models.objectives.choose import objective_of
from trainer.recipe.recipe import Model

# configurations, and what is heard of one caption, the longest: Stable Diffusion 3.5 medium, FLUX.1-dev, Qwen-Image, Z-Image
SIZES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "sd3": (
        {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        {"prompt_embeds": (333, 4096), "pooled": (2048,)},
    ),
    "flux": (
        {
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
        },
        {"prompt_embeds": (512, 4096), "pooled": (768,)},
    ),
    "qwen-image": ({}, {"prompt_embeds": (512, 3584), "prompt_mask": (512,)}),  # as its class has it
    "z-image": ({}, {"prompt_embeds": (512, 2560), "prompt_mask": (512,)}),
}


def of_real_size(family: str, blocks: int) -> Base:
    """A base whose transformer has its real size, of shapes alone; latents of 16 channels; captions of the longest."""
    sizes, text = SIZES[family]
    module, _, name = FAMILIES[family].base.partition(":")
    kind = getattr(import_module(module), name)
    with torch.device("meta"):
        denoiser = kind.denoiser_kind(**sizes).requires_grad_(False)
    vae = make_vae(16)
    if family == "qwen-image":
        vae = AutoencoderKLQwenImage(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    scheduler = FlowMatchEulerDiscreteScheduler()
    large: Base = kind(Model(blocks=blocks), denoiser, vae, [], [], scheduler, objective_of(scheduler), {})
    large.text_shapes = lambda: text  # type: ignore[method-assign]
    return large
