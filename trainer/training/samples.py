"""Pictures to look at while training: the same conditions, prompts and starting points every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from trainer.inference.generate import Request, Sampling, generate
from trainer.inference.pipeline import fit_condition

if TYPE_CHECKING:
    from trainer.data.split import Split
    from trainer.recipe.recipe import Recipe

COLUMNS, CELL = 2, 256  # of the grid: examples abreast, pixels of a picture


@dataclass(frozen=True)
class Samples:
    """What is generated at every validation."""

    requests: Sequence[Request]
    originals: Sequence[Image.Image]  # the rows' own pictures; empty where the recipe names the conditions
    sampling: Sampling

    @classmethod
    def of(cls, recipe: Recipe, split: Split | None) -> Samples:
        """Those that the recipe lists, else rows evenly spread over the held-out ones. Raises ModelError for a bad file."""
        settings, seed = recipe.eval, recipe.train.seed
        sampling = Sampling(settings.sampler_steps, settings.cfg, batch=1)
        if settings.conditions:
            listed = enumerate(zip(settings.conditions, settings.prompts), seed)
            return cls([Request(prompt, fit_condition(file), n) for n, (file, prompt) in listed], [], sampling)
        if split is None:
            return cls([], [], sampling)
        count, each = min(settings.samples, len(split.rows)), split.each
        shown = [each[n % len(each)] for n in range(count)]  # of several kinds, one after the other
        views = [one.view(n * len(split.rows) // count) for n, one in enumerate(shown)]
        requests = [
            Request(prompt, Image.fromarray(map_), seed + n, one.told)
            for n, ((_, map_, prompt), one) in enumerate(zip(views, shown))
        ]
        return cls(requests, [Image.fromarray(pixels) for pixels, _, _ in views], sampling)

    def generate(self, pipe: Any, requests: Sequence[Request]) -> list[Image.Image]:
        """A picture for each, one at a time. pipe: a ControlNet pipeline of diffusers."""
        pipe.set_progress_bar_config(disable=True)
        return generate(pipe, requests, self.sampling)

    def rehearse(self, pipe: Any) -> None:
        """Two steps of the largest."""
        largest = max(self.requests, key=lambda request: request.condition.width * request.condition.height)
        pipe.set_progress_bar_config(disable=True)
        generate(pipe, [largest], replace(self.sampling, steps=2))

    def save_grid(self, path: Path, pictures: Sequence[Image.Image]) -> None:
        """A PNG of condition, generated picture and original for each request, with its prompt below."""
        from condprep.dataset.contact_sheet import SheetRow, contact_sheet

        columns = [[request.condition for request in self.requests], pictures]
        columns += [self.originals] if self.originals else []
        rows = [SheetRow(shown, [request.prompt]) for request, *shown in zip(self.requests, *columns)]
        titles = ("condition", "generated", "original")[: len(columns)]
        contact_sheet(rows, path, titles=titles, columns=COLUMNS, cell=CELL)
