"""A tiny SD 1.5 base as one file of safetensors, with the names of CompVis' own code; `save_base` makes the folder."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {  # of the tiny UNet: two blocks of one layer, attention in the outer ones
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE = {
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    r"down_blocks\.(\d)\.resnets\.(\d)": r"down.\1.block.\2",
    r"down_blocks\.(\d)\.downsamplers\.0": r"down.\1.downsample",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    r"to_out\.0": "proj_out",
    r"to_(q|k|v)\.": r"\1.",
}


def save_single_file(base: Path, file: Path) -> Path:
    """What lies in a base's folder, without configuration and tokenizer."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet").state_dict()
    vae = AutoencoderKL.from_pretrained(base / "vae").state_dict()
    text = CLIPTextModel.from_pretrained(base / "text_encoder").state_dict()
    named = {f"model.diffusion_model.{_unet(name)}": weight for name, weight in unet.items()}
    named |= {f"first_stage_model.{_vae(name)}": _as_convolution(name, weight) for name, weight in vae.items()}
    inner = {name if name.startswith("text_model.") else f"text_model.{name}": weight for name, weight in text.items()}
    named |= {f"cond_stage_model.transformer.{name}": weight for name, weight in inner.items()}
    save_file({name: weight.contiguous() for name, weight in named.items()}, file)
    return file


def _unet(name: str) -> str:
    start = next(start for start in sorted(UNET, key=len, reverse=True) if name.startswith(f"{start}."))
    rest = name.removeprefix(f"{start}.")
    layer, dot, kind = rest.partition(".")
    if ".resnets." in f".{start}" and layer in RESNET:
        rest = f"{RESNET[layer]}{dot}{kind}"
    return f"{UNET[start]}.{rest}"


def _vae(name: str) -> str:
    for ours, theirs in VAE.items():
        name = re.sub(ours, theirs, name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)


def _as_convolution(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Attention of the VAE is convolutions of 1 x 1 there."""
    return weight[:, :, None, None] if "attentions" in name and weight.dim() == 2 else weight
