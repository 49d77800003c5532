"""Bases with random weights at the sizes that people train: nothing is downloaded."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch

WORDS = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}

SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}

LEAST = {"least": "sd15", "least-sdxl": "sdxl"}  # the tests' own: size -> family


def make_base(folder: Path, size: str, device: str = "cpu") -> None:
    """A pipeline folder: Stable Diffusion XL (sdxl), 1.5 (sd15), 1.5 with a quarter of its width and heads (tiny), or the tests' own.

    device: draws the weights; a GPU does in a second what takes a core a minute.
    """
    from support.trainer_models import save_base

    torch.manual_seed(0)
    with torch.device(device):
        if size == "sdxl":
            make_sdxl(folder)
        elif size in LEAST:
            save_base(folder, LEAST[size])
        else:
            make_sd15(folder, 4 if size == "tiny" else 1)
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()  # for those who train


def make_sd15(folder: Path, part: int) -> None:
    """part: of its width, 4 for a quarter."""
    from diffusers import StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet

    widths = tuple(width // part for width in (320, 640, 1280, 1280))
    heads = 8 // part  # diffusers calls their number attention_head_dim here; each stays as wide as it is
    unet = UNet(
        sample_size=64,
        cross_attention_dim=768 // part,
        block_out_channels=widths,
        norm_num_groups=32 // part,
        attention_head_dim=heads,
    )
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(unet=unet, **common_parts(part), **rest).save_pretrained(folder)


def make_sdxl(folder: Path) -> None:
    from diffusers import StableDiffusionXLPipeline
    from diffusers import UNet2DConditionModel as UNet
    from support.trainer_models import make_tokenizer
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    unet = UNet(**SDXL_UNET)
    large = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        **WORDS,
    )
    second = {"text_encoder_2": CLIPTextModelWithProjection(large), "tokenizer_2": make_tokenizer(77)}
    StableDiffusionXLPipeline(unet=unet, **common_parts(1), **second).save_pretrained(folder)


def common_parts(part: int) -> dict[str, Any]:
    """VAE, first text encoder, tokenizer and scheduler of Stable Diffusion."""
    from diffusers import AutoencoderKL, DDPMScheduler
    from support.trainer_models import make_tokenizer
    from transformers import CLIPTextConfig, CLIPTextModel

    vae = AutoencoderKL(
        block_out_channels=tuple(width // part for width in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )
    text = CLIPTextConfig(
        hidden_size=768 // part,
        intermediate_size=3072 // part,
        num_hidden_layers=12,
        num_attention_heads=12 // part,
        **WORDS,
    )
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    return {"vae": vae, "text_encoder": CLIPTextModel(text), "tokenizer": make_tokenizer(77), "scheduler": scheduler}
