"""Stable Diffusion XL: two text encoders, pooled text and the picture's sizes as a second condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLControlNetPipeline
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from trainer.models.parts import Parts
from trainer.models.sd import StableDiffusion
from trainer.models.text import one_after_the_other, token_chunks
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
        """As the paper says: both encoders' last layer but one, side by side; pooled: the second one's projection.

        The empty caption is what the pipeline takes for no prompt at all: zeros, where the base says so.
        """
        outputs = [
            encoder(token_chunks(tokenizer, encoder, captions, self.chunks), output_hidden_states=True)
            for encoder, tokenizer in zip(self.text_encoders, self.tokenizers)
        ]
        layer = -2 - self.text.clip_skip
        states = torch.cat([output.hidden_states[layer] for output in outputs], dim=-1)  # (B * chunks, L, D1 + D2)
        embeds = one_after_the_other(states, self.chunks)
        pooled = outputs[-1].text_embeds[:: self.chunks].clone()  # of the first chunk, as other programs have it
        if self.empty_is_zero:
            empty = torch.tensor([not caption for caption in captions], device=embeds.device)
            embeds[empty], pooled[empty] = 0, 0
        return {"prompt_embeds": embeds, "pooled": pooled}

    def time_ids(self, original: tuple[int, int], crop: tuple[int, int], size: tuple[int, int]) -> Sequence[int] | None:
        return [*original, *crop, *size]

    def condition_kwargs(self, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
        assert batch.time_ids is not None
        added = {"text_embeds": batch.text["pooled"].to(dtype), "time_ids": batch.time_ids.float()}
        return super().condition_kwargs(batch, dtype) | {"added_cond_kwargs": added}

    @classmethod
    def _empty_is_zero(cls, parts: Parts) -> bool:
        return bool(parts.setting("force_zeros_for_empty_prompt", True))

    def _pipeline_rest(self) -> dict[str, Any]:
        return {"add_watermarker": False, "force_zeros_for_empty_prompt": self.empty_is_zero}
