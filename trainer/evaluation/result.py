"""What an evaluation comes to: every arm as numbers, and the numbers as words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condprep.runtime.files import read_json
from trainer.errors import ModelError
from trainer.evaluation.diagnosis import LEFT, Diagnosis, Numbers, diagnose, share
from trainer.evaluation.examples import partners
from trainer.evaluation.intervals import Interval, interval
from trainer.evaluation.pictures import black
from trainer.evaluation.scores import LOWER
from trainer.evaluation.trial import Arm, Trial
from trainer.inference.pipeline import chosen_kind
from trainer.models.kinds import kinds_of
from trainer.recipe.layout import CONDITION, TRAINING

CHANCE, BEST = "other map", "vae"  # the arms between which the ControlNet's own is placed


@dataclass(frozen=True)
class Fidelity:
    """What was measured, and what it means."""

    kind: str | None  # of the conditions
    annotator: str  # that looked at the pictures
    measure: str  # the leading one, in which the shares are
    follows: float  # share of the way from chance to the best that can be reached; NaN where these are nearly one
    scores: Mapping[str, Mapping[str, Interval]]  # arm -> measure -> its mean over rows
    difference: Interval  # of the leading measure: own map minus another row's, row by row
    ahead: Interval  # of the leading measure: how far it is ahead of the second ControlNet, row by row
    findings: Sequence[Diagnosis]
    settings: Mapping[str, Any]
    notes: Sequence[str]
    seconds: float
    arms: Mapping[str, Arm]  # the rows themselves

    def public(self) -> dict[str, Any]:
        """As JSON has it: without the pictures."""
        fields = ("kind", "annotator", "measure", "follows", "settings", "notes", "seconds")
        return {name: getattr(self, name) for name in fields} | {
            "scores": {arm: {name: _dict(one) for name, one in found.items()} for arm, found in self.scores.items()},
            "difference": _dict(self.difference),
            "ahead": _dict(self.ahead),
            "findings": [{"name": one.name, "says": one.says, "advice": one.advice} for one in self.findings],
        }


def _dict(one: Interval) -> dict[str, float]:
    return {"mean": one.mean, "low": one.low, "high": one.high, "rows": one.rows}


@dataclass(frozen=True)
class Trained:
    """What a result says of its training."""

    kind: str | None  # of its conditions
    dataset: str  # fingerprint of its rows
    condition_gap: float | None
    losses: Sequence[tuple[int, float]]  # (update, held-out loss)
    told: str | None = None  # the same kind, where it is one of several
    kinds: Sequence[str | None] = ()  # all of them, as the training has them

    @classmethod
    def of(cls, output: Path, metrics: Path, kind: str | None = None) -> Trained:
        """output: of a run, or one of its checkpoints; metrics: of the run; kind: which of several is looked at.

        Raises ModelError where a record is missing or damaged, and for a kind that was not trained on.
        """
        try:
            kinds = kinds_of(read_json(output / CONDITION))
            training = read_json(output / TRAINING)
            told, found, updates = chosen_kind(kinds, kind), training["metrics"], int(training["updates"])
            dataset, gap = training["dataset"], found.get(f"condition_gap_{told}" if told else "condition_gap")
        except FileNotFoundError as error:
            raise ModelError(
                f"{output} holds no result of the trainer: there is no {error.filename}; give the folder of a run"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{output} holds no result of the trainer: a record is damaged ({error})") from error
        losses = [one for one in _losses(metrics, told) if one[0] <= updates]  # a checkpoint's own, of no later update
        return cls(kinds[0] if told is None else told, dataset, gap, losses, told, kinds)


def _losses(path: Path, told: str | None) -> Iterator[tuple[int, float]]:
    """The held-out losses of metrics.jsonl, of one kind of several its own; a line that was cut off is left out."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(ValueError, KeyError, TypeError):
            values = json.loads(line)
            yield int(values["update"]), float(values[f"val_loss_{told}" if told else "val_loss"])


def conclude(
    trial: Trial,
    arms: Mapping[str, Arm],
    trained: Trained,
    settings: Mapping[str, Any],
    seconds: float,
    measure: str | None = None,
) -> Fidelity:
    """The arms as numbers and words. measure: leads instead of the usual one."""
    scores = {name: trial.summary(arm) for name, arm in arms.items()}
    measure = measure or next(iter(arms["controlnet"].scores[0]))
    difference = _difference(arms, measure, trial.sampling.seed)
    second = arms["against"].values(measure) if "against" in arms else []
    ahead = _ahead(arms["controlnet"].values(measure) if second else [], second, measure, trial.sampling.seed)
    numbers = _numbers(scores, measure, difference, trained, trial.kind)
    return Fidelity(
        kind=trial.kind,
        annotator=trial.annotator.label,
        measure=measure,
        follows=numbers.follows,
        scores=scores,
        difference=difference,
        ahead=ahead,
        findings=diagnose(numbers),
        settings=settings,
        notes=[*_notes(arms, ahead), *trial.networks.missing],
        seconds=seconds,
        arms=arms,
    )


def _difference(arms: Mapping[str, Arm], measure: str, seed: int) -> Interval:
    """Own map minus another row's, row by row, so that what rows have in common cancels out. Better is above 0."""
    if CHANCE not in arms:
        return interval([], seed)
    own = arms["controlnet"].values(measure)
    return _ahead(
        [own[number] for number in partners(arms["controlnet"].rows)], arms[CHANCE].values(measure), measure, seed
    )


def _ahead(ours: Sequence[float], theirs: Sequence[float], measure: str, seed: int) -> Interval:
    """Of the same rows. Better is above 0."""
    difference = np.array(ours) - np.array(theirs)
    return interval(-difference if measure in LOWER else difference, seed)


def _numbers(
    scores: Mapping[str, Mapping[str, Interval]],
    measure: str,
    difference: Interval,
    trained: Trained,
    kind: str | None,
) -> Numbers:
    mean = {arm: found[measure].mean for arm, found in scores.items() if measure in found}
    sharp = {arm: found["sharpness"].mean for arm, found in scores.items() if "sharpness" in found}
    chance, perfect = mean.get(CHANCE, math.nan), 0.0 if measure in LOWER else 1.0

    unlike = mean.get("real, other map", math.nan)
    held = share(mean[BEST], unlike, mean["real"])

    def follows(arm: str) -> float:
        return share(mean.get(arm, math.nan), chance, mean[BEST]) if held >= LEFT else math.nan

    return Numbers(
        follows=follows("controlnet"),
        clear=not difference.low <= 0,
        real=share(mean["real"], unlike, perfect),
        vae=held,
        train=follows("train rows"),
        foreign=follows("foreign caption"),
        sharpness=sharp.get("controlnet", math.nan) / sharp.get(BEST, math.nan),
        condition_gap=trained.condition_gap,
        kinds=(trained.kind, kind),
        losses=trained.losses,
    )


def _notes(arms: Mapping[str, Arm], ahead: Interval) -> Iterator[str]:
    """What is missing, and why; and how two ControlNets compare."""
    if ahead.rows:
        clear = ahead.low > 0 or ahead.high < 0
        verdict = ("better" if ahead.mean > 0 else "worse") if clear else "neither better nor worse that could be told"
        yield f"row by row it is {ahead} ahead of the second ControlNet: {verdict}"
    for name, arm in arms.items():
        if arm.new and (count := black(arm.pictures)):
            yield (
                f"{count:,} of {len(arm.pictures):,} pictures of arm {name!r} are black, and count: where a network gives values that"
                " are no numbers a picture is; try --precision fp32"
            )
    if CHANCE not in arms:
        yield "no two rows share a size: there is no other condition to try, so nothing is held against chance"
    if "train rows" not in arms:
        yield "the dataset has no rows that were trained on: memorising cannot be told"
