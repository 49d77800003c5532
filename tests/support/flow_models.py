"""Tiny bases with a transformer and random weights, of every family that flows. A second to make."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from support.kept import made_once
from support.trainer_models import make_tokenizer, make_vocabulary
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

WIDTH = 16  # of CLIP
FLOWS = ("sd3", "flux", "qwen-image", "z-image")
CHAT = (  # of Qwen3, but for its tools
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@made_once
def save_flow_base(folder: Path, family: str, seed: int = 0) -> Path:
    """A diffusers pipeline folder. family: one of FLOWS, or "schnell", which is of the family flux."""
    torch.manual_seed(seed)
    makers: dict[str, Any] = {
        "sd3": _sd3,
        "flux": _flux,
        "qwen-image": _qwen_image,
        "z-image": _z_image,
        "schnell": _schnell,
    }
    makers[family]().save_pretrained(folder)
    return folder


def _sd3() -> StableDiffusion3Pipeline:
    """Four blocks, the first of which has two kinds of attention as in SD 3.5; positions for 128 pixels."""
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=40,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=lively(transformer),
        vae=make_vae(),
        text_encoder=_clip(),
        tokenizer=make_tokenizer(),
        text_encoder_2=_clip(),
        tokenizer_2=make_tokenizer(),
        text_encoder_3=_t5(40),
        tokenizer_3=make_t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _schnell() -> FluxPipeline:
    """As `_flux`, without guidance and shift."""
    return _flux(guided=False, scheduler=FlowMatchEulerDiscreteScheduler())


def _flux(guided: bool = True, scheduler: FlowMatchEulerDiscreteScheduler | None = None) -> FluxPipeline:
    """Three blocks with two streams and one with one; guidance as a number, sigmas shifted by resolution, as FLUX.1-dev has them."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=3,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guided,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        transformer=lively(transformer),
        vae=make_vae(),
        text_encoder=CLIPTextModel(_clip_config()),
        tokenizer=make_tokenizer(),
        text_encoder_2=_t5(24),
        tokenizer_2=make_t5_tokenizer(),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def _qwen_image() -> QwenImagePipeline:
    """Three blocks; latents of a film's VAE, each channel with a mean and a deviation of its own."""
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.0, 0.3],
        latents_std=[0.5, 1.5, 1.0, 0.8],
    )
    return QwenImagePipeline(
        transformer=lively(transformer),
        vae=vae,
        text_encoder=_qwen_that_sees(),
        tokenizer=make_qwen_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=0.9),
    )


def _z_image() -> ZImagePipeline:
    """Four layers and a refiner of each kind; positions for 256 pixels."""
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=4,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[600, 16, 16],
    )
    text_encoder = Qwen3Model(Qwen3Config(head_dim=8, **_qwen()))
    return ZImagePipeline(
        transformer=lively(transformer),
        vae=make_vae(),
        text_encoder=text_encoder,
        tokenizer=make_qwen_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _qwen() -> dict[str, Any]:
    """Of a Qwen of two layers."""
    return {
        "vocab_size": len(make_qwen_tokenizer()),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _qwen_that_sees() -> Qwen2_5_VLForConditionalGeneration:
    """Its eyes are never used."""
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    positions = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = Qwen2_5_VLConfig(text_config={**_qwen(), "rope_parameters": positions}, vision_config=eyes)
    return Qwen2_5_VLForConditionalGeneration(config)


def make_qwen_tokenizer() -> Qwen2Tokenizer:
    """A token for each letter, as byte-level BPE has them, and those of a chat."""
    letters = [*string.ascii_letters, *string.digits, *".,:/_'", "Ġ", "Ċ"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(vocab={letter: number for number, letter in enumerate(letters)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.chat_template = CHAT
    return tokenizer


def lively(network: Any) -> Any:
    """With weights where a transformer begins with zeros: else nothing that goes in would come out."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return network


def make_vae(channels: int = 4) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        shift_factor=0.06,
        scaling_factor=1.5,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64,
    )


def _clip() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(_clip_config())


def _clip_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(make_vocabulary()),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _t5(width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(make_t5_tokenizer().get_vocab()),
        d_model=width,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def make_t5_tokenizer() -> T5TokenizerFast:
    """A token for each letter."""
    letters = string.ascii_lowercase + string.digits + ".,"
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [(letter, -3.0) for letter in letters] + [(f"▁{letter}", -3.5) for letter in letters]
    return T5TokenizerFast(vocab=special + words, extra_ids=0)
