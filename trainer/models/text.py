"""Captions as tokens and as what the denoiser hears: in chunks of what a text encoder takes, from the layer that is wanted.

A caption of more tokens than an encoder takes is cut into chunks of 75, as AUTOMATIC1111's and ComfyUI's programs do it: each
gets a start and an end, is encoded by itself, and the outputs are put one after the other. Rows are filled with empty chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor

EncodeText = Callable[[Sequence[str]], Mapping[str, Tensor]]  # of a base: captions -> "prompt_embeds", "pooled"
CHUNK = 75  # tokens of a chunk, as recipes count them: those of CLIP, without start and end


def token_chunks(tokenizer: Any, encoder: Any, captions: Sequence[str], chunks: int) -> Tensor:
    """(B * chunks, L) int64, a caption's chunks one after the other: each cut or filled to L, on the encoder's device."""
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    inside, rows = length - 2, []
    for tokens in tokenizer(list(captions), add_special_tokens=False, verbose=False).input_ids:
        for start in range(0, chunks * inside, inside):
            row = [tokenizer.bos_token_id, *tokens[start : start + inside], tokenizer.eos_token_id]
            rows.append([*row, *[tokenizer.pad_token_id] * (length - len(row))])
    return torch.tensor(rows, device=encoder.device)


def one_after_the_other(states: Tensor, chunks: int) -> Tensor:
    """(B * chunks, L, D) -> (B, chunks * L, D)."""
    return states.reshape(-1, chunks * states.shape[1], states.shape[2])


def hears_as_trained(pipeline: Any, encode_text: EncodeText) -> Any:
    """The same pipeline, whose prompts are encoded as captions were in training; embeddings that it is given stay."""
    encode = pipeline.encode_prompt

    @wraps(encode)
    def encode_prompt(*arguments: Any, **named: Any) -> Any:
        given = signature(encode).bind(*arguments, **named)
        known = signature(encode).parameters
        said = encoded(encode_text, given.arguments, negative="negative_prompt_embeds" in known)
        given.arguments |= said
        return encode(*given.args, **given.kwargs)

    pipeline.encode_prompt = encode_prompt
    return pipeline


def encoded(encode_text: EncodeText, given: Mapping[str, Any], negative: bool = True) -> dict[str, Any]:
    """Embeddings of what is said to `encode_prompt`, by the names that it has for them. negative: it takes those, too."""
    prompt = given.get("prompt")
    if prompt is None or given.get("prompt_embeds") is not None:
        return {}
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    found = _named(encode_text(prompts), "")
    if negative and given.get("do_classifier_free_guidance", True) and given.get("negative_prompt_embeds") is None:
        unwanted = given.get("negative_prompt") or ""
        negatives = [unwanted] * len(prompts) if isinstance(unwanted, str) else list(unwanted)
        found |= _named(encode_text(negatives), "negative_")
    return found


def _named(text: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    names = {"prompt_embeds": f"{prefix}prompt_embeds", "pooled": f"{prefix}pooled_prompt_embeds"}
    return {names[name]: tensor for name, tensor in text.items()}
