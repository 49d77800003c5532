"""The pictures that an evaluation looks at: generated from its rows, through the VAE alone, by another ControlNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from PIL import Image

from condprep.images.decode import Pixels
from trainer.errors import ModelError
from trainer.evaluation.examples import Example
from trainer.inference.generate import Done, Request, Sampling, generate
from trainer.models.parts import mismatches, read_controlnet


def requests(rows: Sequence[Example], conditions: Sequence[Image.Image], pictures: int, seed: int) -> list[Request]:
    """`pictures` of each row, one after the other. conditions: one for each row, its own or another's."""
    return [
        Request(row.prompt, condition, row_seed(row, number, seed), row.kind)
        for row, condition in zip(rows, conditions)
        for number in range(pictures)
    ]


def row_seed(row: Example, number: int, seed: int) -> int:
    """The same noise for a row's picture of that number whichever ControlNet or condition, in any batch and company."""
    digest = sha256(f"{seed} {row.key} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def generate_arrays(
    pipe: Any, wanted: Sequence[Request], how: Sampling, *, strength: float = 1.0, done: Done = lambda _: None
) -> list[Pixels]:
    """As `generate`, without a progress bar of the pipeline: (H, W, 3) uint8 each."""
    pipe.set_progress_bar_config(disable=True)
    return [np.array(picture) for picture in generate(pipe, wanted, how, strength=strength, done=done)]


def black(pictures: Sequence[Pixels]) -> int:
    """How many have no light in any pixel: what diffusers makes of values that are no numbers, without an error."""
    return sum(not picture.any() for picture in pictures)


@torch.no_grad()
def through_vae(pipe: Any, pictures: Sequence[Pixels]) -> list[Pixels]:
    """Pictures (H, W, 3) uint8, encoded and decoded: the best that any ControlNet of this base could give."""
    found = []
    with _without_overflow(pipe.vae) as vae:
        for rgb in pictures:
            pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None].to(vae.device, vae.dtype) / 127.5 - 1
            frames = pixels[:, :, None] if "temperal_downsample" in vae.config else pixels  # a VAE for films
            decoded = vae.decode(vae.encode(frames).latent_dist.mode()).sample.reshape(pixels.shape)
            levels = ((decoded[0].float().clamp(-1, 1) + 1) * 127.5).round().byte()
            found.append(levels.permute(1, 2, 0).cpu().numpy())
    return found


@contextmanager
def _without_overflow(vae: Any) -> Iterator[Any]:
    """A VAE that overflows in fp16, in fp32: as its pipeline has it when it decodes. There and back, no weight changes."""
    overflows = vae.dtype == torch.float16 and vae.config.get("force_upcast", True)
    if overflows:
        vae.to(torch.float32)
    try:
        yield vae
    finally:
        if overflows:
            vae.to(torch.float16)


@contextmanager
def another(pipe: Any, name: str) -> Iterator[None]:
    """The pipeline with another ControlNet, by folder or Hub name, on the same base. Raises ModelError."""
    own = getattr(pipe.controlnet, "nets", [pipe.controlnet])[0]  # FLUX.1's of several kinds is the only one of a list
    other = read_controlnet(type(own), name, True)
    for key, found, expected in mismatches(other.config, own.config):
        raise ModelError(
            f"{name} was made for another base, or for other kinds of conditions: its {key} is {found}, not {expected}"
        )
    other = other.to(own.device, own.dtype)
    if hasattr(other, "t_embedder"):  # Z-Image's, which borrows from the transformer
        other = type(other).from_transformer(other, pipe.transformer)
    if hasattr(other, "task_embedding"):  # of several kinds of conditions
        from trainer.models.union import keep_rows_apart

        keep_rows_apart(other)
    before = pipe.controlnet
    pipe.controlnet = other if before is own else type(before)([other])
    try:
        yield
    finally:
        pipe.controlnet = before
