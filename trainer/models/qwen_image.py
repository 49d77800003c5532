"""Qwen-Image: Qwen2.5-VL's text as long as it is, latents of a VAE for video, packed, with rotary positions, a flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageTransformer2DModel,
)
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from trainer.models.packed import PATCH, PackedBase
from trainer.models.text import MASK, STATES, filled, lengths
from trainer.types import Batch, Latents

TOKENS = 512  # max_sequence_length of QwenImageControlNetPipeline
READ = 1024  # tokenizer_max_length of it: the most that the text encoder reads of a caption
OPENING = 34  # prompt_template_encode_start_idx: tokens before the caption, which are not heard
# prompt_template_encode: what the text encoder was told in the base's training
TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of"
    " the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)


class QwenImage(PackedBase):
    family: ClassVar[str] = "qwen-image"
    four_bits: ClassVar[bool] = True
    denoiser_kind: ClassVar[Any] = QwenImageTransformer2DModel
    controlnet_kind: ClassVar[Any] = QwenImageControlNetModel
    pipeline_kind: ClassVar[Any] = QwenImageControlNetPipeline
    vae_kind: ClassVar[Any] = AutoencoderKLQwenImage
    vae_settings: ClassVar[Sequence[str]] = ("latents_mean", "latents_std")
    text_parts: ClassVar[Sequence[tuple[str, str, Any, Any]]] = (
        ("text_encoder", "tokenizer", Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer),
    )
    unheard_parts: ClassVar[Sequence[str]] = ("txt_mlp", "attn.to_add_out")
    usual_blocks: ClassVar[int] = 5  # of 60, as of QwenImageControlNetModel.from_transformer
    alike: ClassVar[Sequence[str]] = (
        "in_channels",
        "patch_size",
        "num_attention_heads",
        "attention_head_dim",
        "joint_attention_dim",
        "axes_dims_rope",
    )
    longest_text: ClassVar[int | None] = TOKENS

    @property
    def condition_config(self) -> Mapping[str, int]:
        return {"extra_condition_channels": (self.condition_channels - self.latent_channels) * PATCH**2}

    @property
    def vae_channels(self) -> int:
        return int(self.vae.config.z_dim)

    @property
    def factor(self) -> int:
        return int(2 ** len(self.vae.config.temperal_downsample))

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Latents:
        """A picture is a film of one frame. Each channel of its latents is brought to mean 0 and deviation 1."""
        config = self.vae.config
        posterior = self.vae.encode((pixels / 127.5 - 1).to(self.vae.dtype)[:, :, None]).latent_dist
        shift, scale = (
            torch.tensor(each, device=pixels.device)[:, None, None]
            for each in (config.latents_mean, config.latents_std)
        )
        mean, std = (posterior.mean[:, :, 0].float() - shift) / scale, posterior.std[:, :, 0].float() / scale
        return Latents(mean.contiguous(), std.contiguous())

    def encoded(self, number: int, captions: list[str]) -> Mapping[str, Tensor]:
        """The last layer for the caption in the base's template, without the template's beginning."""
        encoder, tokenizer = self.text_encoders[number], self.tokenizers[number]
        tokens = tokenizer(
            [TEMPLATE.format(caption) for caption in captions],
            padding=True,
            max_length=READ + OPENING,
            truncation=True,
            return_tensors="pt",
        )
        mask = tokens.attention_mask.to(encoder.device)
        output = encoder(input_ids=tokens.input_ids.to(encoder.device), attention_mask=mask, output_hidden_states=True)
        rows = zip(output.hidden_states[-1], mask.bool())
        return filled([states[kept][OPENING : OPENING + TOKENS] for states, kept in rows])

    def condition_kwargs(self, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
        """Rows of one length need no mask, and are told without one, as the pipeline has it."""
        known = lengths(batch.text[MASK])
        longest = max(known)
        mask = batch.text[MASK][:, :longest] > 0
        height, width = (side // self.factor // PATCH for side in batch.conditions.shape[2:])
        return {
            "encoder_hidden_states": batch.text[STATES][:, :longest].to(dtype),
            "encoder_hidden_states_mask": None if min(known) == longest else mask,
            "img_shapes": [(1, height, width)] * len(known),
        }

    def copied(self, transformer: Any, blocks: int) -> Any:
        """Also the text's norm, which from_transformer of diffusers forgets."""
        config = {name: transformer.config[name] for name in [*self.alike, "out_channels"]}
        controlnet = QwenImageControlNetModel(num_layers=blocks, **self.condition_config, **config)
        for name in ("time_text_embed", "txt_norm", "img_in", "txt_in"):
            getattr(controlnet, name).load_state_dict(getattr(transformer, name).state_dict())
        for mine, theirs in zip(controlnet.transformer_blocks, transformer.transformer_blocks):
            mine.load_state_dict(theirs.state_dict())
        return controlnet.train()
