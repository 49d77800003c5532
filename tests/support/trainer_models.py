"""Tiny base models with random weights, of every family that trainer knows, and a dataset to train on. Seconds to make."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image, ImageDraw
from support.kept import made_once
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import condprep

WIDTH = 32  # of the text encoders
TOKENS = 16  # a prompt's length
FAMILIES = ("sd15", "sd2", "sdxl")


@made_once
def save_base(folder: Path, family: str = "sd15", factor: int = 8, seed: int = 0) -> Path:
    """A diffusers pipeline folder. family: sd15 (epsilon), sd2 (v-prediction, linear projections) or sdxl."""
    torch.manual_seed(seed)
    parts = _shared(family, factor)
    if family == "sdxl":
        second = {"text_encoder_2": _text_encoder(projected=True), "tokenizer_2": make_tokenizer()}
        StableDiffusionXLPipeline(**parts, **second).save_pretrained(folder)
    else:
        rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        StableDiffusionPipeline(**parts, **rest).save_pretrained(folder)
    return folder


def _shared(family: str, factor: int) -> dict[str, Any]:
    prediction = "v_prediction" if family == "sd2" else "epsilon"
    return {
        "unet": _unet(family),
        "vae": _vae(factor),
        "text_encoder": _text_encoder(),
        "tokenizer": make_tokenizer(),
        "scheduler": DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
            prediction_type=prediction,
        ),
    }


def _unet(family: str) -> UNet2DConditionModel:
    further: dict[str, Any] = {"use_linear_projection": family != "sd15", "cross_attention_dim": WIDTH}
    if family == "sdxl":
        further |= {
            "cross_attention_dim": 2 * WIDTH,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
        }
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        **further,
    )


def rewrite(file: str, **values: Any) -> Callable[[Path], object]:
    """A change of a folder: other values in one of its JSON files."""

    def change(folder: Path) -> None:
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(config | values))

    return change


def slim_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """Copied from the UNet, with a condition embedder as slim as that: of the usual width it is most of what is computed."""
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 16))


@made_once
def save_slim(folder: Path) -> Path:
    """A ControlNet for `save_base(...)`, with a slim embedder."""
    torch.manual_seed(0)
    slim_controlnet(_unet("sd15")).save_pretrained(folder)  # its weights are another draw's, and its last ones zero
    return folder


def _vae(factor: int) -> AutoencoderKL:
    blocks = factor.bit_length()
    return AutoencoderKL(
        block_out_channels=(8, *[16] * (blocks - 1)),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
    )


def _text_encoder(projected: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(make_vocabulary()),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def make_vocabulary() -> dict[str, int]:
    letters = string.ascii_lowercase + string.digits + ".,"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return {word: number for number, word in enumerate(words)}


def make_tokenizer(length: int = TOKENS) -> CLIPTokenizer:
    """A token for each letter; prompts of at most `length` tokens."""
    return CLIPTokenizer(vocab=make_vocabulary(), merges=[], model_max_length=length)


def save_pictures(folder: Path, rows: int = 12, size: tuple[int, int] = (64, 64), seed: int = 0) -> Path:
    """Discs and boxes of three colours, captioned; size: (width, height), pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for row in range(rows):
        colour = ("red", "green", "blue")[row % 3]
        image = Image.new("RGB", size, (row, 90, 90))
        x, y, side = random.integers(4, 20), random.integers(4, 20), random.integers(20, 36)
        draw = ImageDraw.Draw(image).ellipse if row % 2 else ImageDraw.Draw(image).rectangle
        draw((int(x), int(y), int(x + side), int(y + side)), fill=colour)
        name = folder / f"{size[0]}x{size[1]}-{row:03d}.png"
        image.save(name)
        name.with_suffix(".txt").write_text(f"a {colour} {'disc' if row % 2 else 'box'}")
    return folder


def build_dataset(folder: Path, rows: int = 12, **options: Any) -> Path:
    """A dataset of condprep with canny maps, 64 px, a quarter of it for validation."""
    pictures = save_pictures(folder.with_name(folder.name + "-pictures"), rows)
    settings: dict[str, Any] = {"resolution": 64, "validation": 0.25, "captions": "list"} | options
    condprep.build(pictures, folder, "canny", **settings)
    return folder
