"""The rows that a ControlNet is tried on, and the annotator that made their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from condprep.annotators.batches import as_batch
from condprep.annotators.kinds import kind_of_annotator
from condprep.annotators.openpose.keypoints import Body, bodies, present
from condprep.annotators.protocol import Annotator, full_name
from condprep.annotators.recorded import Recorded
from condprep.annotators.registry import load_annotator
from condprep.annotators.runner import Runner
from condprep.errors import CondprepError, Rejected
from condprep.images.decode import Pixels
from condprep.images.geometry import Placement
from condprep.runtime.concurrency import group
from condprep.types import IMPORTED
from trainer.errors import DataError
from trainer.evaluation.scores import Condition
from trainer.inference.export import made_by

if TYPE_CHECKING:
    from condprep.weights.find import Weights
    from trainer.data.source import Source

AT_ONCE = 8 * 512 * 512  # pixels of a batch of the annotator


@dataclass(frozen=True)
class Row:
    """A picture at the size that is generated, with what it was to follow."""

    key: str
    prompt: str  # its first caption
    original: Pixels  # (H, W, 3) uint8
    condition: Pixels  # (H, W, 3) uint8: what the ControlNet is given
    people: Sequence[Body] | None = None  # of poses, in pixels of `original`

    @property
    def wanted(self) -> Condition:
        return Condition(self.condition, self.people)

    @property
    def image(self) -> Image.Image:
        """The condition as a pipeline takes it."""
        return Image.fromarray(self.condition)


def read_rows(source: Source, most: int) -> list[Row]:
    """At most that many rows of a source, evenly spread, at the training's sizes."""
    count = min(most, len(source.rows))
    return [_row(source, number * len(source.rows) // count) for number in range(count)]


def _row(source: Source, number: int) -> Row:
    original, condition, prompt = source.view(number)
    value = source.rows[number].keypoints
    placement = source.transform.place(source.sizes[number])
    people = None if value is None else [_placed(body, placement) for body in bodies(value)]
    return Row(source.rows.key(number), prompt, original, condition, people)


def _placed(body: Body, placement: Placement) -> Body:
    """A body of the stored picture, moved with it; what is missing stays 0, 0, 0."""
    sx, _, tx, _, sy, ty = placement.transform
    moved = body.copy()
    moved[present(body), :2] = moved[present(body), :2] * (sx, sy) + (tx, ty)
    return moved


class Reannotator:
    """The annotator that made a dataset's maps, asked again."""

    def __init__(self, annotator: Annotator) -> None:
        self.runner = Runner(annotator)

    @property
    def kind(self) -> str | None:
        """Of the maps, one of condprep.types.CONDITION_KINDS; None: not known."""
        return kind_of_annotator(self.runner.annotator.name, self.runner.annotator.variant)

    @property
    def label(self) -> str:
        return full_name(self.runner.annotator.name, self.runner.annotator.variant)

    def __call__(self, pictures: Sequence[Pixels], keys: Sequence[str]) -> list[Condition]:
        """Pictures (H, W, 3) uint8 and the keys of their rows, from which random variants draw, -> their maps.

        Raises CondprepError for a picture on which the annotator fails.
        """
        found: dict[int, Condition] = {}
        numbered = iter(enumerate(pictures))
        for batch in group(numbered, lambda p: p[1].shape, lambda p: p[1].size // 3, AT_ONCE, 2 * AT_ONCE):
            results = self.runner(as_batch([rgb for _, rgb in batch]), [keys[number] for number, _ in batch])
            for (number, _), result in zip(batch, results):
                if isinstance(result, Rejected):
                    raise CondprepError(f"row {keys[number]}: the generated picture cannot be annotated: {result}")
                found[number] = Condition(result[0], _people(result[1]))
        return [found[number] for number in range(len(pictures))]


def _people(columns: dict[str, Any]) -> list[Body] | None:
    return bodies(columns["keypoints"]) if "keypoints" in columns else None


def reannotator(
    dataset: str,
    column: str,
    instead: tuple[str, Mapping[str, Any]] | None,
    device: str,
    weights: Weights | None = None,
) -> Reannotator:
    """The annotator of a dataset's column: same variant, parameters and weights. instead: another, with parameters.

    Raises DataError where the dataset does not say what made its maps, AnnotatorError where it cannot be had exactly.
    """
    if instead:
        return Reannotator(load_annotator(instead[0], device=device, params=dict(instead[1]), weights=weights))
    recorded = _recorded(dataset, column)
    if recorded is None or recorded.name == IMPORTED:
        raise DataError(
            f"{dataset} does not say which annotator made its {column!r}, so pictures cannot be annotated alike;"
            " `python -m trainer evaluate --annotator NAME` can name it"
        )
    remedies = {"trust_by": "`python -m trainer evaluate` --annotator", "weights_by": "--annotator-weights"}
    return Reannotator(recorded.load(trust=(), device=device, weights=weights, **remedies))


def _recorded(dataset: str, column: str) -> Recorded | None:
    """The annotator that a dataset names for a column; None where it names none, or its record is damaged."""
    made = made_by(Path(dataset), column)
    with suppress(KeyError, TypeError, ValueError):
        return made and Recorded.of(dataset, made[0])
    return None


def remade(rows: Sequence[Row], annotator: Reannotator) -> list[Row]:
    """The same rows with the conditions that this annotator makes of their pictures."""
    made = annotator([row.original for row in rows], [row.key for row in rows])
    return [replace(row, condition=_coloured(one.pixels), people=one.people) for row, one in zip(rows, made)]


def _coloured(pixels: Pixels) -> Pixels:
    """(H, W) or (H, W, 3) -> (H, W, 3)."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def partners(rows: Sequence[Row]) -> dict[int, int]:
    """For each row, by number, another one of the same size; a row whose size no other has is left out."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        by_size.setdefault(row.condition.shape, []).append(number)
    return {a: b for same in by_size.values() if len(same) > 1 for a, b in zip(same, [*same[1:], same[0]])}
