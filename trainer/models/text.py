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
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

EncodeText = Callable[[Sequence[str]], Mapping[str, Any]]  # captions -> what `encode_prompt` of a pipeline is given
STATES, MASK = "prompt_embeds", "prompt_mask"  # of text that is as long as its caption: rows are filled with zeros
CHUNK = 75  # tokens of a chunk, as recipes count them: those of CLIP, without start and end


def token_chunks(tokenizer: Any, encoder: Any, captions: Sequence[str], chunks: int) -> Tensor:
    """(B * chunks, L) int64, a caption's chunks one after the other: each cut or filled to L, on the encoder's device."""
    room, rows = inside(tokenizer, encoder), []
    for tokens in tokenizer(list(captions), add_special_tokens=False, verbose=False).input_ids:
        for start in range(0, chunks * room, room):
            row = [tokenizer.bos_token_id, *tokens[start : start + room], tokenizer.eos_token_id]
            rows.append([*row, *[tokenizer.pad_token_id] * (room + 2 - len(row))])
    return torch.tensor(rows, device=encoder.device)


def inside(tokenizer: Any, encoder: Any) -> int:
    """Tokens of a chunk, between its start and its end."""
    return int(min(tokenizer.model_max_length, encoder.config.max_position_embeddings)) - 2


def one_after_the_other(states: Tensor, chunks: int) -> Tensor:
    """(B * chunks, L, D) -> (B, chunks * L, D)."""
    return states.reshape(-1, chunks * states.shape[1], states.shape[2])


def filled(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Rows (L, D), each of its own length -> STATES (B, longest L, D), and MASK (B, longest L), 1 where a row has a token."""
    ones = [states.new_ones(len(states)) for states in rows]
    return {STATES: pad_sequence(list(rows), batch_first=True), MASK: pad_sequence(ones, batch_first=True)}


def lengths(mask: Tensor) -> list[int]:
    """(B, L) -> of each row; all of L where there are shapes alone, as in a prediction of memory."""
    if isinstance(mask, FakeTensor):
        return [mask.shape[1]] * len(mask)
    counted: list[int] = (mask > 0).sum(1).tolist()
    return counted


def apart(text: Mapping[str, Tensor]) -> list[Tensor]:
    """The other way: rows (L, D)."""
    return [states[:length] for states, length in zip(text[STATES], lengths(text[MASK]))]


def one_below_the_other(parts: Sequence[Tensor]) -> Tensor:
    """Some captions' rows each, (B, L, ...) -> all of them, (sum of B, longest L, ...): the shorter ones are filled with zeros."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([part if part.shape[1] == longest else _longer(part, longest) for part in parts])


def _longer(part: Tensor, length: int) -> Tensor:
    return pad(part, [*[0, 0] * (part.ndim - 2), 0, length - part.shape[1]])


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
    found = dict(encode_text(prompts))
    if negative and given.get("do_classifier_free_guidance", True) and given.get("negative_prompt_embeds") is None:
        unwanted = given.get("negative_prompt") or ""
        negatives = [unwanted] * len(prompts) if isinstance(unwanted, str) else list(unwanted)
        found |= {f"negative_{name}": said for name, said in encode_text(negatives).items()}
    return found


def pipeline_names(text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a base hears, by the names that most pipelines have for it."""
    names = {STATES: STATES, MASK: "prompt_embeds_mask", "pooled": "pooled_prompt_embeds"}
    return {names[name]: tensor for name, tensor in text.items()}
