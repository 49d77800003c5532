"""FLUX.1: CLIP's pooled text and T5, packed latents with rotary positions, a flow; dev hears its guidance as a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from trainer.errors import ModelError
from trainer.models.packed import PATCH, PackedBase, heard_of
from trainer.models.transformer import freeze
from trainer.types import Batch

T5_TOKENS = 512  # max_sequence_length of FluxControlNetPipeline
GUIDANCE = 3.5  # that a distilled base is told in training: the default of train_controlnet_flux.py


class Flux(PackedBase):
    family: ClassVar[str] = "flux"
    four_bits: ClassVar[bool] = True
    denoiser_kind: ClassVar[Any] = FluxTransformer2DModel
    controlnet_kind: ClassVar[Any] = FluxControlNetModel
    pipeline_kind: ClassVar[Any] = FluxControlNetPipeline
    text_parts: ClassVar[Sequence[tuple[str, str, Any, Any]]] = (
        ("text_encoder", "tokenizer", CLIPTextModel, CLIPTokenizer),
        ("text_encoder_2", "tokenizer_2", T5EncoderModel, T5TokenizerFast),
    )
    unheard_parts: ClassVar[Sequence[str]] = ("ff_context", "attn.to_add_out")
    usual_blocks: ClassVar[int] = 4  # of FluxControlNetModel.from_transformer, and of train_controlnet_flux.py
    alike: ClassVar[Sequence[str]] = (
        "in_channels",
        "num_attention_heads",
        "attention_head_dim",
        "joint_attention_dim",
        "pooled_projection_dim",
        "guidance_embeds",
        "axes_dims_rope",
    )

    def encoded(self, number: int, captions: list[str]) -> Mapping[str, Tensor]:
        """CLIP's pooled text, and T5's last layer, padding included."""
        encoder, tokenizer = self.text_encoders[number], self.tokenizers[number]
        length = T5_TOKENS if number else tokenizer.model_max_length
        ids = tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        output = encoder(ids.to(encoder.device))
        return {"prompt_embeds": output[0]} if number else {"pooled": output.pooler_output}

    def condition_kwargs(self, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
        """Positions are (tokens, 3): text has none, and a picture's tokens their row and column, in any bucket."""
        text = {name: states.to(dtype) for name, states in batch.text.items()}
        device, states = text["pooled"].device, text["prompt_embeds"]
        height, width = (side // self.factor // PATCH for side in batch.conditions.shape[2:])
        rows, columns = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        places = torch.stack((torch.zeros_like(rows), rows, columns), -1).reshape(-1, 3)
        guided = self.denoiser.config.guidance_embeds
        return {
            "encoder_hidden_states": states,
            "pooled_projections": text["pooled"],
            "txt_ids": torch.zeros(states.shape[1], 3, device=device, dtype=dtype),
            "img_ids": places.to(dtype),
            "guidance": torch.full((len(states),), GUIDANCE, device=device) if guided else None,
        }

    def residuals(self, found: Any) -> Mapping[str, Any]:
        """Of blocks with two streams, and with one, of which a ControlNet of others may have some, too."""
        return dict(zip(("controlnet_block_samples", "controlnet_single_block_samples"), found, strict=True))

    @property
    def modes(self) -> int | None:
        """Kinds of conditions that its ControlNet tells apart; None where it is made for one."""
        return None

    @property
    def condition_config(self) -> Mapping[str, int | None]:
        return {"num_mode": self.modes}

    def _check_controlnet(self, init: str, controlnet: Any) -> None:
        if controlnet.config.get("conditioning_embedding_channels"):
            raise ModelError(
                f"model.init {init!r} looks at the map's pixels, as XLabs' ControlNets do (conditioning_embedding_channels);"
                " what can be trained looks at its latents: take another one, or leave model.init out"
            )
        super()._check_controlnet(init, controlnet)

    def copied(self, transformer: Any, blocks: int) -> Any:
        """Of the blocks with two streams, none of those with one."""
        config = transformer.config
        heads = {"attention_head_dim": config.attention_head_dim, "num_attention_heads": config.num_attention_heads}
        return FluxControlNetModel.from_transformer(transformer, blocks, 0, **heads)

    def forget_unheard(self, controlnet: Any) -> None:
        """One of others may have blocks of one stream, which hear all of those of two."""
        singles = len(controlnet.single_transformer_blocks)
        if not singles:
            return super().forget_unheard(controlnet)
        last = heard_of(len(self.denoiser.single_transformer_blocks), singles)
        freeze(*controlnet.single_transformer_blocks[last:], *controlnet.controlnet_single_blocks[last:])
        freeze(*controlnet.controlnet_blocks[self.heard(len(controlnet.controlnet_blocks)) :])
