"""The rows that a ControlNet is tried on, at the size that is generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from condprep.annotators.openpose.keypoints import Body, bodies, present
from condprep.images.decode import Pixels
from condprep.images.geometry import Placement
from trainer.evaluation.reannotator import Reannotator
from trainer.evaluation.scores import Condition

if TYPE_CHECKING:
    from trainer.data.split import Split


@dataclass(frozen=True)
class Example:
    """A row, decoded at the size that is generated: a picture, and what it was to follow."""

    key: str
    prompt: str  # its first caption
    original: Pixels  # (H, W, 3) uint8
    condition: Pixels  # (H, W, 3) uint8: what the ControlNet is given
    people: Sequence[Body] | None = None  # of poses, in pixels of `original`
    kind: str | None = None  # of its condition, where the ControlNet knows several

    @property
    def wanted(self) -> Condition:
        return Condition(self.condition, self.people)

    @property
    def image(self) -> Image.Image:
        """The condition as a pipeline takes it."""
        return Image.fromarray(self.condition)


def read_examples(split: Split, most: int) -> list[Example]:
    """At most that many rows of a split, evenly spread, at the training's sizes."""
    count = min(most, len(split.rows))
    return [_example(split, number * len(split.rows) // count) for number in range(count)]


def _example(split: Split, number: int) -> Example:
    original, condition, prompt = split.view(number)
    value = split.rows[number].keypoints
    placement = split.transform.place(split.sizes[number])
    people = None if value is None else [_placed(body, placement) for body in bodies(value)]
    return Example(split.rows.key(number), prompt, original, condition, people, split.told)


def _placed(body: Body, placement: Placement) -> Body:
    """A body of the stored picture, moved with it; what is missing stays 0, 0, 0."""
    sx, _, tx, _, sy, ty = placement.transform
    moved = body.copy()
    moved[present(body), :2] = moved[present(body), :2] * (sx, sy) + (tx, ty)
    return moved


def remade(rows: Sequence[Example], annotator: Reannotator) -> list[Example]:
    """The same rows with the conditions that this annotator makes of their pictures."""
    made = annotator([row.original for row in rows], [row.key for row in rows])
    return [replace(row, condition=_coloured(one.pixels), people=one.people) for row, one in zip(rows, made)]


def _coloured(pixels: Pixels) -> Pixels:
    """(H, W) or (H, W, 3) -> (H, W, 3)."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def partners(rows: Sequence[Example]) -> dict[int, int]:
    """For each row, by number, another one of the same size; a row whose size no other has is left out."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        by_size.setdefault(row.condition.shape, []).append(number)
    return {a: b for same in by_size.values() if len(same) > 1 for a, b in zip(same, [*same[1:], same[0]])}
