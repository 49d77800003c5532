"""What the numbers of an evaluation mean, in plain words, and what to do about it.

Scores of different kinds of conditions are brought to one scale, the share: 0 is a picture that was made for another
condition, 1 the best that can be reached. Every threshold stands here once; docs/fidelity.md lists them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BELONGS = 0.5  # share of the real pictures' own score below which maps and pictures do not belong together
HELD = 0.5  # share below which the VAE loses what the condition shows
LEFT = 0.1  # share below which nothing can be placed between chance and what the VAE leaves
IGNORES, FOLLOWS = 0.1, 0.7  # share below which a condition is ignored, and from which it is followed
# Condition gap of the held-out losses from which on the condition is said to be used. Where nothing can be followed it stays below 1.001;
# pictures begin to follow at 1.10, and at 1.14 a tenth of the way, whether the base predicts velocity or noise (`bench condition-gap`).
USED = 1.05
MEMORISED = 0.25  # share by which train rows are better than unseen ones
PROMPTED = 0.25  # share that is lost with another row's caption
SHARP = 0.6  # of the sharpness that the VAE leaves to real pictures
STILL = 0.01  # of the best held-out loss: less improvement over the last third of the validations is a plateau
LAST, LEAST_POINTS = 3, 6  # the last third; validations below which nothing is said of a plateau


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is the matter with a ControlNet, or with its dataset."""

    name: str
    says: str
    advice: str  # "" where there is nothing to do


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is diagnosed. Shares are those of `share`; NaN or None is not measured."""

    follows: float  # share of the generated pictures, between another row's map and the VAE's own score
    clear: bool = True  # the interval of right minus wrong maps does not hold 0
    real: float = 1.0  # share of the real pictures, between another row's map and perfection
    vae: float = 1.0  # share that the VAE's round trip keeps of that
    train: float = math.nan  # `follows` on rows that were trained on
    foreign: float = math.nan  # `follows` with captions of other rows
    sharpness: float = math.nan  # of generated pictures, relative to real ones after the VAE
    condition_gap: float | None = None  # of the held-out losses, at the training's end
    kinds: tuple[str | None, str | None] = (None, None)  # of the conditions trained on, and of those given
    losses: Sequence[tuple[int, float]] = ()  # (update, held-out loss), as the training went


def share(value: float, chance: float, best: float) -> float:
    """Where a score lies between two others: 0 at `chance`, 1 at `best`, also where lower is better. NaN if they are one."""
    return (value - chance) / (best - chance) if abs(best - chance) > 1e-9 else math.nan


@dataclass(frozen=True, slots=True)
class Symptom:
    """By what a diagnosis is made, and its words; what is in braces there are those of `_words`."""

    name: str
    when: Callable[[Numbers], bool]
    says: str
    advice: str


CAUSES = (  # groups: of each the first symptom that holds speaks
    (
        Symptom(
            "wrong kind",
            lambda n: bool(n.kinds[0] and n.kinds[1] and n.kinds[0] != n.kinds[1]),
            "the conditions are {given}, but this ControlNet was trained on {trained}",
            "evaluate it on a dataset of {trained} maps",
        ),
    ),
    (
        Symptom(
            "maps do not belong",
            lambda n: n.real < BELONGS,
            "the real pictures, annotated again, reach {real} of a perfect score against their own maps: maps and"
            " pictures do not line up, or another annotator made them",
            "run `condprep verify` on the dataset, and build it again where it finds shifted or exchanged maps; a"
            " ControlNet learns nothing from such pairs",
        ),
        Symptom(
            "lost in the VAE",
            lambda n: n.vae < HELD,
            "after the VAE alone {vae} of the real pictures' score is left: it cannot hold what the maps show",
            "train and sample at a higher resolution, or with another model.vae; no ControlNet can do better",
        ),
        Symptom(
            "not measured",
            lambda n: math.isnan(n.follows),
            "chance and the best that can be reached are one, or no two rows share a size",
            "evaluate on more rows, whose conditions differ",
        ),
    ),
    (
        Symptom(
            "ignoring",
            lambda n: _ignores(n) and n.condition_gap is not None and n.condition_gap >= USED,
            "the pictures do not follow yet, though the loss tells right from wrong conditions ({gap})",
            "train longer: pictures follow later than the loss does",
        ),
        Symptom(
            "ignoring",
            lambda n: _ignores(n),
            "the pictures fit another row's map as well as their own: the condition is ignored (condition gap {gap})",
            "it often comes suddenly, after thousands of updates: train longer with a larger train.batch, raise train.lr,"
            " and look at the pairs with `condprep verify`",
        ),
        Symptom(
            "memorising",
            lambda n: n.train - n.follows >= MEMORISED,
            "it follows {train} of the way on rows that it was trained on, and {follows} on unseen ones",
            "train on more, or more different, rows, for fewer updates; take an earlier checkpoint",
        ),
        Symptom(
            "plateau",
            lambda n: n.follows < FOLLOWS and plateau(n.losses),
            "it follows {follows} of the way, and the held-out loss has stopped falling",
            "raise train.batch first; then try train.lr twice as high, or half of it if the loss is restless",
        ),
        Symptom(
            "follows in part",
            lambda n: n.follows < FOLLOWS,
            "it follows {follows} of the way from chance to the best that can be reached",
            "train longer: the held-out loss has not stopped falling",
        ),
    ),
    (
        Symptom(
            "leans on captions",
            lambda n: n.clear and n.follows >= IGNORES and n.follows - n.foreign >= PROMPTED,
            "with another row's caption it follows {foreign} of the way instead of {follows}",
            "raise data.caption_dropout to 0.5, so that it must look at the condition",
        ),
    ),
    (
        Symptom(
            "blurry",
            lambda n: n.sharpness < SHARP,
            "the generated pictures have {sharpness} of the sharpness that the VAE leaves to real ones",
            "more sampler steps, or a --cfg between 3 and 8; train longer where neither helps",
        ),
    ),
)
WELL = Symptom(
    "follows", lambda _: True, "it follows {follows} of the way from chance to the best that can be reached", ""
)


def diagnose(numbers: Numbers) -> list[Diagnosis]:
    """What is the matter, causes first; one diagnosis that all is well where it is."""
    first = (next((symptom for symptom in group if symptom.when(numbers)), None) for group in CAUSES)
    words = _words(numbers)
    return [
        Diagnosis(symptom.name, symptom.says.format_map(words), symptom.advice.format_map(words))
        for symptom in [symptom for symptom in first if symptom] or [WELL]
    ]


def _words(n: Numbers) -> dict[str, str]:
    shares = {name: getattr(n, name) for name in ("follows", "real", "vae", "train", "foreign", "sharpness")}
    gap = "not measured" if n.condition_gap is None else f"{n.condition_gap:.2f} x"
    return {name: _percent(part) for name, part in shares.items()} | {
        "gap": gap,
        "trained": n.kinds[0] or "",
        "given": n.kinds[1] or "",
    }


def _ignores(n: Numbers) -> bool:
    return n.follows < IGNORES or (not n.clear and not math.isnan(n.follows))


def plateau(losses: Sequence[tuple[int, float]]) -> bool:
    """Whether the last third of the validations has hardly improved on the best loss before it."""
    if len(losses) < LEAST_POINTS:
        return False
    late = len(losses) // LAST
    before, after = (min(loss for _, loss in part) for part in (losses[:-late], losses[-late:]))
    return after > before * (1 - STILL)


def _percent(part: float) -> str:
    return f"{max(0.0, 100 * part):.0f} %"
