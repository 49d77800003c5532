"""Pictures by a ControlNet pipeline: batched, each from a seed of its own, so that none depends on the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from trainer.models.kinds import condition_name

Done = Callable[[int], None]  # is told of pictures that are made
Stepped = Callable[[], None]  # is told of each step of a batch


@dataclass(frozen=True)
class Sampling:
    """How a picture is made."""

    steps: int  # of the family's sampler
    cfg: float  # classifier-free guidance
    pictures: int = 1  # of each row
    seed: int = 0
    batch: int = 8  # pictures at a time: speed and memory alone
    negative_prompt: str = ""


@dataclass(frozen=True)
class Request:
    """One picture that is asked for. It has the size of its condition."""

    prompt: str
    condition: Image.Image  # RGB
    seed: int  # of its starting noise
    kind: str | None = None  # of its condition, where the ControlNet knows several


def generate(
    pipe: Any,
    requests: Sequence[Request],
    how: Sampling,
    *,
    strength: float = 1.0,
    done: Done = lambda _: None,
    stepped: Stepped | None = None,
) -> list[Image.Image]:
    """A picture for each request, RGB. strength: of the ControlNet, 0 is the base alone. stepped: may raise, to stop it."""
    pictures: list[Image.Image] = []
    mine = [pipe.device] if pipe.device.type == "cuda" else []  # else every GPU of the machine would be opened
    for batch in _batches(requests, how.batch):
        width, height = batch[0].condition.size
        with torch.random.fork_rng(mine):
            torch.manual_seed(batch[0].seed)  # should a pipeline draw anything without the generators
            made = pipe(
                [request.prompt for request in batch],
                **_conditions(pipe, batch),
                width=width,
                height=height,
                num_inference_steps=how.steps,
                controlnet_conditioning_scale=strength,
                **_guidance(pipe, how, len(batch)),
                generator=[torch.Generator().manual_seed(request.seed) for request in batch],
                **({} if stepped is None else {"callback_on_step_end": _after_step(stepped)}),
            )
        pictures += made.images
        done(len(batch))
    return pictures


def _guidance(pipe: Any, how: Sampling, pictures: int) -> dict[str, Any]:
    """Qwen-Image's is another number, and there is none of it without a negative prompt; for SDXL none at all is not the same
    as an empty one, which it has zeros for."""
    negative = [how.negative_prompt] * pictures
    if type(pipe).__name__.startswith("QwenImage"):
        return {"true_cfg_scale": how.cfg, "negative_prompt": negative}
    return {"guidance_scale": how.cfg, "negative_prompt": negative if how.negative_prompt else None}


def _conditions(pipe: Any, batch: Sequence[Request]) -> dict[str, Any]:
    images, kind = [request.condition for request in batch], batch[0].kind
    return {condition_name(pipe): images if kind is None else {kind: images}}


def _after_step(stepped: Stepped) -> Callable[..., dict[str, Any]]:
    """What diffusers calls after each step, and which may change the tensors that it hands over."""

    def told(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        stepped()
        return tensors

    return told


def _batches(requests: Sequence[Request], most: int) -> Iterator[list[Request]]:
    """Neighbours of one size, and one kind of conditions."""
    batch: list[Request] = []
    for request in requests:
        alike = batch and (request.condition.size, request.kind) == (batch[0].condition.size, batch[0].kind)
        if batch and not (alike and len(batch) < most):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch
