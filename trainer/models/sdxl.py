"""Stable Diffusion XL: two text encoders, pooled text and the picture's sizes as a second condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLControlNetPipeline
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from trainer.models.sd import StableDiffusion, _token_ids
from trainer.types import Batch


class StableDiffusionXL(StableDiffusion):
    family: ClassVar[str] = "sdxl"
    text_parts: ClassVar[Sequence[tuple[str, str, Any]]] = (
        ("text_encoder", "tokenizer", CLIPTextModel),
        ("text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection),
    )
    pipeline_kind: ClassVar[Any] = StableDiffusionXLControlNetPipeline

    def _text_width(self) -> int:
        return sum(encoder.config.hidden_size for encoder in self.text_encoders)

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """As the paper says: both encoders' last layer but one, side by side; pooled: the second one's projection."""
        outputs = [
            encoder(_token_ids(tokenizer, encoder, captions), output_hidden_states=True)
            for encoder, tokenizer in zip(self.text_encoders, self.tokenizers)
        ]
        embeds = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)  # (B, L, D1 + D2)
        return {"prompt_embeds": embeds, "pooled": outputs[-1].text_embeds}

    def time_ids(self, original: tuple[int, int], crop: tuple[int, int], size: tuple[int, int]) -> Sequence[int] | None:
        return [*original, *crop, *size]

    def condition_kwargs(self, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
        assert batch.time_ids is not None
        added = {"text_embeds": batch.text["pooled"].to(dtype), "time_ids": batch.time_ids.float()}
        return super().condition_kwargs(batch, dtype) | {"added_cond_kwargs": added}

    def _pipeline_rest(self) -> dict[str, Any]:
        return {"add_watermarker": False}
