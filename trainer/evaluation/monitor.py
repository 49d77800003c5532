"""Fidelity while training: the same held-out rows, noise and chance at every validation, so that only the ControlNet changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.errors import DataError
from trainer.evaluation.diagnosis import BELONGS, LEFT, share
from trainer.evaluation.examples import Example, partners, read_examples
from trainer.evaluation.pictures import black, generate_arrays, requests, through_vae
from trainer.evaluation.reannotator import Reannotator, reannotator
from trainer.evaluation.scores import LOWER, compare
from trainer.evaluation.trial import mean_scores
from trainer.inference.generate import Sampling
from trainer.types import ProcessGroup

if TYPE_CHECKING:
    from trainer.data.split import Split
    from trainer.recipe.recipe import Recipe

AT_ONCE = 4  # pictures
BLACK = "fidelity_black"  # how many pictures are, where there are any
CONVERGED = 0.5  # share from which on a condition is said to be followed
SUDDEN = 0.3  # share by which it must have risen since the validation before to be called sudden


@dataclass
class FidelityMonitor:
    """Examples that are generated and measured at every validation. Every process has all of them, and makes its part."""

    rows: list[Example]
    annotator: Reannotator
    kind: str | None
    sampling: Sampling
    group: ProcessGroup
    real: dict[str, float] = field(default_factory=dict)  # scores of the real pictures
    ceiling: dict[str, float] = field(default_factory=dict)  # and after the VAE

    def __post_init__(self) -> None:
        self.other = partners(self.rows)
        if not self.other:
            raise DataError(
                f"eval.fidelity: of {len(self.rows)} held-out rows no two share a size; raise eval.fidelity_rows"
            )

    @classmethod
    def of(cls, recipe: Recipe, split: Split, group: ProcessGroup, device: str) -> FidelityMonitor:
        """As a recipe wants it. Raises DataError, AnnotatorError and WeightsError as `reannotator` does."""
        annotator = reannotator(recipe.data.path, recipe.data.condition_column, None, device)
        # where passes are made together all processes have as many: a picture each
        batch = 1 if group.together else AT_ONCE
        sampling = Sampling(recipe.eval.sampler_steps, recipe.eval.cfg, seed=recipe.train.seed, batch=batch)
        rows = read_examples(split, recipe.eval.fidelity_rows)
        return cls(rows, annotator, annotator.kind or split.rows.kind, sampling, group)

    def measure(self, pipe: Any) -> dict[str, float]:
        """`fidelity`, the share of the way from chance to the VAE's own score, and the leading measure of each."""
        from accelerate.utils import gather_object

        mine = [number % len(self.rows) for number in self.group.share(len(self.rows))]
        rows = [self.rows[number] for number in mine]
        wanted = requests(rows, [row.image for row in rows], 1, self.sampling.seed)
        pictures = generate_arrays(pipe, wanted, self.sampling)
        made = self.annotator(pictures, [row.key for row in rows])
        found = [(n, (*self._scores(n, one), black([picture]))) for n, one, picture in zip(mine, made, pictures)]
        everyone = [scores for _, scores in sorted(dict(gather_object(found)).items())]
        if not self.real:
            originals = [row.original for row in self.rows]
            self.real, self.ceiling = self._mean(originals), self._mean(through_vae(pipe, originals))
        dark = sum(number for *_, number in everyone)
        return self._summary([(own, other) for own, other, _ in everyone]) | ({BLACK: dark} if dark else {})

    def _scores(self, number: int, made: Any) -> tuple[dict[str, float], dict[str, float]]:
        """Against the row's own map, and against another row's."""
        own = compare(self.kind, made, self.rows[number].wanted)
        if number not in self.other:
            return own, {}
        return own, compare(self.kind, made, self.rows[self.other[number]].wanted)

    def _mean(self, pictures: list[np.ndarray]) -> dict[str, float]:
        """The scores of a picture of each row, by its own map."""
        made = self.annotator(pictures, [row.key for row in self.rows])
        return mean_scores([compare(self.kind, one, row.wanted) for one, row in zip(made, self.rows)])

    def _summary(self, scores: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, float]:
        own, chance = mean_scores([one for one, _ in scores]), mean_scores([other for _, other in scores if other])
        measure = next(iter(own))
        found = {f"fidelity_{name}": value for name, value in own.items()}
        found |= {"fidelity_chance": chance[measure], "fidelity_ceiling": self.ceiling[measure]}
        found |= {"fidelity_real": self.real[measure]}
        follows = self._follows(measure, own[measure], chance[measure])
        return {name: value for name, value in ({"fidelity": follows} | found).items() if np.isfinite(value)}

    def _follows(self, measure: str, own: float, chance: float) -> float:
        """The share; NaN where the maps are not those of the pictures, or the VAE leaves too little to place it."""
        ceiling, perfect = self.ceiling[measure], 0.0 if measure in LOWER else 1.0
        if share(self.real[measure], chance, perfect) < BELONGS or share(ceiling, chance, perfect) < LEFT:
            return float("nan")
        return share(own, chance, ceiling)


def measure_each(monitors: Mapping[str | None, FidelityMonitor], pipe: Any) -> dict[str, float]:
    """What each monitor measures; of several kinds of conditions by their names, and `fidelity` is the mean of those that have one."""
    found = {kind: monitor.measure(pipe) for kind, monitor in monitors.items()}
    if None in found:
        return found[None]
    shares = [one["fidelity"] for one in found.values() if "fidelity" in one]
    whole = {"fidelity": float(np.mean(shares))} if shares else {}
    if dark := sum(one.get(BLACK, 0) for one in found.values()):
        whole[BLACK] = dark
    return whole | {f"{name}_{kind}": value for kind, one in found.items() for name, value in one.items()}


def best_so_far(found: Mapping[str, float], before: Mapping[str, float], update: int) -> dict[str, float]:
    """What a validation adds to what is remembered: nothing where an earlier one was as good. before: what that is."""
    now = found.get("fidelity")
    if now is None or now <= before.get("best_fidelity", -np.inf):
        return {}
    return {"best_fidelity": now, "best_update": update}


def is_settled(metrics: Mapping[str, float], update: int, patience: int, every: int) -> bool:
    """Whether `patience` validations, `every` updates apart, have not improved on the best one; 0 is never."""
    return bool(patience) and "best_update" in metrics and update - metrics["best_update"] >= patience * every


def unknown_remark(found: Mapping[str, float], update: int) -> str:
    """What a validation says to a person where `measure` found no share."""
    said = "of no kind do the real pictures, annotated again, give their own maps; see `condprep verify`"
    three = [found.get(f"fidelity_{name}", math.nan) for name in ("real", "ceiling", "chance")]
    if all(map(math.isfinite, three)):
        said = (
            "by their own maps the real pictures score {:.2f}, and {:.2f} after the VAE, by another row's the generated ones {:.2f}; nothing can"
            " be placed between: take more held-out rows, or see `condprep verify` where the first is low"
        ).format(*three)
    return f"update {update:,}: whether pictures follow their condition cannot be told: {said}"


def black_remark(count: float, update: int) -> str:
    """What a validation says to a person where pictures are black."""
    return (
        f"update {update:,}: {count:.0f} of the pictures of eval.fidelity are black, as they are where a network gives values that are no"
        ' numbers: look at samples/, and try train.precision = "bf16" or "fp32", or another model.vae'
    )


def fidelity_remark(before: Mapping[str, float], now: float, update: int) -> str:
    """What a validation says to a person. before: the metrics of the one before."""
    line = f"update {update:,}: pictures follow their condition {max(0.0, now):.0%} of the way"
    if not before.get("best_fidelity", 0.0) < CONVERGED <= now:
        return line
    sudden = now - before.get("fidelity", 0.0) >= SUDDEN
    return f"{line}; {'sudden ' * sudden}convergence at update {update:,}"
