"""Trying a ControlNet on rows: its pictures and its anchors, annotated again and scored.

An arm is one way of making pictures of rows; `ARMS` says which there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from condprep.images.decode import Pixels
from condprep.verification.quality.picture import quality
from trainer.evaluation.examples import Example, partners
from trainer.evaluation.intervals import Interval
from trainer.evaluation.networks import NONE, Networks
from trainer.evaluation.pictures import another, generate_arrays, requests, through_vae
from trainer.evaluation.reannotator import Reannotator
from trainer.evaluation.scores import Condition, compare, summarise
from trainer.inference.generate import Sampling

ARMS = {
    "controlnet": "held-out rows: their own condition and caption",
    "other map": "the same pictures, against another row's map: chance",
    "foreign condition": "made from another row's condition with the row's own caption, against the row's own map",
    "foreign caption": "the same pictures, against the condition that they were made from: diverse prompts",
    "base": "the base alone, without the ControlNet",
    "against": "the second ControlNet, on the same base and noise",
    "train rows": "rows that were trained on",
    "real": "the real pictures: what the annotator finds again",
    "real, other map": "the real pictures against another row's map",
    "vae": "the real pictures through the VAE: the best that can be reached",
}


@dataclass(frozen=True)
class Arm:
    """Pictures of rows, and how well each follows the map that it is held against."""

    name: str
    rows: Sequence[Example]  # whose maps are wanted
    pictures: Sequence[Pixels]  # the first one of each row
    made: Sequence[Condition]  # what was found again in it
    scores: Sequence[Mapping[str, float]]  # of each row, the mean over its pictures
    new: bool = True  # its pictures are neither the real ones nor another arm's

    def values(self, measure: str) -> list[float]:
        return [row[measure] for row in self.scores]


@dataclass(frozen=True)
class Trial:
    """A pipeline, and what its pictures are measured with."""

    pipe: Any
    annotator: Reannotator
    kind: str | None  # of the conditions
    sampling: Sampling
    done: Callable[[int], None] = lambda _: None  # is told of pictures that are made
    networks: Networks = NONE

    def generated(self, name: str, rows: Sequence[Example], *, strength: float = 1.0) -> Arm:
        """Each row's own condition and caption."""
        return self.scored(name, rows, self._pictures(rows, rows, strength))

    def foreign(self, rows: Sequence[Example]) -> list[Arm]:
        """Conditions of other rows, once against the rows' own maps and once against those that were given."""
        other = partners(rows)
        mine, given = [rows[a] for a in other], [rows[b] for b in other.values()]
        if not mine:
            return []
        own = self.scored("foreign condition", mine, self._pictures(mine, given, 1.0))
        return [own, *self.against_maps("foreign caption", own.pictures, own.made, given)]

    def second(self, rows: Sequence[Example], controlnet: str) -> Arm:
        """Another ControlNet's pictures. Raises ModelError for one that does not fit the base."""
        with another(self.pipe, controlnet):
            return self.generated("against", rows)

    def real(self, rows: Sequence[Example]) -> Arm:
        return replace(self.scored("real", rows, [row.original for row in rows]), new=False)

    def vae(self, rows: Sequence[Example]) -> Arm:
        return self.scored("vae", rows, through_vae(self.pipe, [row.original for row in rows]))

    def other_maps(self, name: str, arm: Arm) -> list[Arm]:
        """The same pictures, each against the map of another row; nothing where every row has a size of its own."""
        other = partners(arm.rows)
        pictures, made = [arm.pictures[a] for a in other], [arm.made[a] for a in other]
        return self.against_maps(name, pictures, made, [arm.rows[b] for b in other.values()])

    def against_maps(
        self, name: str, pictures: Sequence[Pixels], made: Sequence[Condition], rows: Sequence[Example]
    ) -> list[Arm]:
        """Pictures that are annotated already, one of each row, against the maps of these rows."""
        scores = [self._score(*one) for one in zip(made, rows, pictures)]
        return [Arm(name, rows, pictures, made, scores, new=False)] if rows else []

    def scored(self, name: str, rows: Sequence[Example], pictures: Sequence[Pixels]) -> Arm:
        """Annotate and compare. pictures: the same number of each row, row by row."""
        each = len(pictures) // len(rows)
        keys = [row.key for row in rows for _ in range(each)]
        made = self.annotator(pictures, keys)
        scores = []
        for number, row in enumerate(rows):
            mine = range(number * each, (number + 1) * each)
            scores.append(
                mean_scores([self._score(made[n], row, pictures[n]) | self._shows(row, pictures[n]) for n in mine])
            )
        return Arm(name, rows, pictures[::each], made[::each], scores)

    def summary(self, arm: Arm) -> dict[str, Interval]:
        """Every measure with its interval over rows."""
        wanted = [row.wanted for row in arm.rows]
        found = summarise(self.kind, arm.scores, arm.made, wanted, self.sampling.seed)
        if self.networks.kid and arm.new:
            found["kid"] = self.networks.kid([row.original for row in arm.rows], arm.pictures, self.sampling.seed)
        return {name: one for name, one in found.items() if one.rows}

    def _pictures(self, rows: Sequence[Example], given: Sequence[Example], strength: float) -> list[Pixels]:
        wanted = requests(rows, [row.image for row in given], self.sampling.pictures, self.sampling.seed)
        return generate_arrays(self.pipe, wanted, self.sampling, strength=strength, done=self.done)

    def _score(self, made: Condition, row: Example, picture: Pixels) -> dict[str, float]:
        sharp = quality(picture).sharpness
        return compare(self.kind, made, row.wanted) | {"sharpness": np.nan if sharp is None else sharp}

    def _shows(self, row: Example, picture: Pixels) -> dict[str, float]:
        """The CLIP score of a picture that was made with the row's caption."""
        return {"clip": self.networks.clip(picture, row.prompt)} if self.networks.clip else {}


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure over the pictures that have it."""
    found = {}
    for name in scores[0]:
        known = [one[name] for one in scores if not np.isnan(one[name])]
        found[name] = float(np.mean(known)) if known else float("nan")
    return found
