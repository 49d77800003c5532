"""Pictures of many rows: batched, each from a seed of its own, so that none depends on the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from PIL import Image

from condprep.images.decode import Pixels
from trainer.errors import ModelError
from trainer.evaluation.rows import Row

Done = Callable[[int], None]  # is told of pictures that are made
MUST_EQUAL = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block", "addition_embed_type")


@dataclass(frozen=True)
class Sampling:
    """How a picture is made."""

    steps: int  # of UniPC
    cfg: float  # classifier-free guidance
    pictures: int = 1  # of each row
    seed: int = 0
    batch: int = 8  # pictures at a time: speed and memory alone
    negative_prompt: str = ""


@dataclass(frozen=True)
class Task:
    """One picture: a caption, and a condition that may be another row's."""

    row: Row
    image: Image.Image  # the condition
    number: int = 0  # of the row's pictures

    def generator(self, seed: int) -> torch.Generator:
        """Its own: the same noise for this row whichever ControlNet or condition, in any batch and company."""
        digest = sha256(f"{seed} {self.row.key} {self.number}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def tasks(rows: Sequence[Row], images: Sequence[Image.Image], pictures: int) -> list[Task]:
    """`pictures` of each row, one after the other. images: the condition of each."""
    return [Task(row, image, number) for row, image in zip(rows, images) for number in range(pictures)]


def generate(pipe: Any, wanted: Sequence[Task], how: Sampling, *, strength: float = 1.0, done: Done) -> list[Pixels]:
    """(H, W, 3) uint8 of each task. pipe: a ControlNet pipeline; strength: of the ControlNet, 0 is the base alone."""
    pipe.set_progress_bar_config(disable=True)
    pictures: list[Pixels] = []
    for batch in _batches(wanted, how.batch):
        width, height = batch[0].image.size
        made = pipe(
            [task.row.prompt for task in batch],
            image=[task.image for task in batch],
            width=width,
            height=height,
            num_inference_steps=how.steps,
            guidance_scale=how.cfg,
            controlnet_conditioning_scale=strength,
            # none at all is not the same as an empty one: SDXL has zeros for it
            negative_prompt=[how.negative_prompt] * len(batch) if how.negative_prompt else None,
            generator=[task.generator(how.seed) for task in batch],
        )
        pictures += [np.array(picture) for picture in made.images]
        done(len(batch))
    return pictures


def _batches(wanted: Sequence[Task], most: int) -> Iterator[list[Task]]:
    """Neighbours of one size."""
    batch: list[Task] = []
    for task in wanted:
        if batch and (len(batch) == most or task.image.size != batch[0].image.size):
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch


@torch.no_grad()
def through_vae(pipe: Any, pictures: Sequence[Pixels]) -> list[Pixels]:
    """Pictures (H, W, 3) uint8, encoded and decoded: the best that any ControlNet of this base could give."""
    vae, found = pipe.vae, []
    for rgb in pictures:
        pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None].to(vae.device, vae.dtype) / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        levels = ((decoded[0].float().clamp(-1, 1) + 1) * 127.5).round().byte()
        found.append(levels.permute(1, 2, 0).cpu().numpy())
    return found


@contextmanager
def another(pipe: Any, name: str) -> Iterator[None]:
    """The pipeline with another ControlNet, by folder or Hub name, on the same base. Raises ModelError."""
    from diffusers import ControlNetModel

    from trainer.models.parts import read_model

    own = pipe.controlnet
    other = read_model(ControlNetModel, name, True)
    for key in MUST_EQUAL:
        if _plain(own.config[key]) != _plain(other.config[key]):
            raise ModelError(
                f"{name} was made for another base: its {key} is {other.config[key]}, not {own.config[key]}"
            )
    pipe.controlnet = other.to(own.device, own.dtype)
    try:
        yield
    finally:
        pipe.controlnet = own


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
