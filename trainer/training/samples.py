"""Pictures to look at while training: the same conditions, prompts and starting points every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

if TYPE_CHECKING:
    from trainer.data.source import Source
    from trainer.recipe.recipe import Eval

COLUMNS, CELL = 2, 256  # of the grid: examples abreast, pixels of a picture


@dataclass(frozen=True)
class Example:
    """What one picture is generated from."""

    condition: Image.Image  # RGB
    prompt: str
    original: Image.Image | None = None  # the row's own picture


def choose_examples(settings: Eval, source: Source | None) -> list[Example]:
    """Those that the recipe lists, else rows evenly spread over the held-out ones. Raises ModelError for a bad file."""
    from trainer.inference.pipeline import fit_condition

    if settings.conditions:
        return [Example(fit_condition(file), prompt) for file, prompt in zip(settings.conditions, settings.prompts)]
    if source is None:
        return []
    count = min(settings.samples, len(source.rows))
    examples = []
    for number in range(count):
        pixels, condition, prompt = source.view(number * len(source.rows) // count)
        examples.append(Example(Image.fromarray(condition), prompt, Image.fromarray(pixels)))
    return examples


def generate(pipe: Any, example: Example, settings: Eval, seed: int, steps: int | None = None) -> Image.Image:
    """A picture of an example. pipe: a ControlNet pipeline of diffusers; steps: other than the recipe's."""
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        example.prompt,
        image=example.condition,
        width=example.condition.width,
        height=example.condition.height,
        num_inference_steps=steps or settings.sampler_steps,
        guidance_scale=settings.cfg,
        generator=torch.Generator().manual_seed(seed),
    )
    picture: Image.Image = made.images[0]
    return picture


def save_grid(path: Path, examples: Sequence[Example], pictures: Sequence[Image.Image]) -> None:
    """A PNG of condition, generated picture and original for each example, with its prompt below."""
    from condprep.dataset.contact_sheet import SheetRow, contact_sheet

    pairs = [
        SheetRow([e.condition, picture, *([e.original] if e.original else [])], [e.prompt])
        for e, picture in zip(examples, pictures)
    ]
    titles = ["condition", "generated", *(["original"] if examples[0].original else [])]
    contact_sheet(pairs, path, titles=titles, columns=COLUMNS, cell=CELL)
