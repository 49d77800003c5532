"""What the numbers of an evaluation mean, in plain words, and what to do about it.

Scores of different kinds of conditions are brought to one scale, the share: 0 is a picture that was made for another
condition, 1 the best that can be reached. Every threshold stands here once; docs/fidelity.md lists them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.heldout import USED

BELONGS = 0.5  # share of the real pictures' own score below which maps and pictures do not belong together
HELD = 0.5  # share below which the VAE loses what the condition shows
LEFT = 0.1  # share below which nothing can be placed between chance and what the VAE leaves
IGNORES, FOLLOWS = 0.1, 0.7  # share below which a condition is ignored, and from which it is followed
MEMORISED = 0.25  # share by which train rows are better than unseen ones
PROMPTED = 0.25  # share that is lost with another row's caption
SHARP = 0.6  # of the sharpness that the VAE leaves to real pictures
STILL = 0.01  # of the best held-out loss: less improvement over the last third of the validations is a plateau
LAST, LEAST_POINTS = 3, 6  # the last third; validations below which nothing is said of a plateau


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an evaluation shows."""

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


def diagnose(numbers: Numbers) -> list[Finding]:
    """What is the matter, causes first; one finding that all is well where it is."""
    return list(_findings(numbers)) or [_well(numbers)]


def _findings(n: Numbers) -> Iterator[Finding]:
    trained, given = n.kinds
    if trained and given and trained != given:
        yield Finding(
            "wrong kind",
            f"the conditions are {given}, but this ControlNet was trained on {trained}",
            f"evaluate it on a dataset of {trained} maps",
        )
    if n.real < BELONGS:
        yield Finding(
            "maps do not belong",
            f"the real pictures, annotated again, reach {_percent(n.real)} of a perfect score against their own maps: maps and"
            " pictures do not line up, or another annotator made them",
            "run `condprep verify` on the dataset, and build it again where it finds shifted or exchanged maps; a"
            " ControlNet learns nothing from such pairs",
        )
    elif n.vae < HELD:
        yield Finding(
            "lost in the VAE",
            f"after the VAE alone {_percent(n.vae)} of the real pictures' score is left: it cannot hold what the maps show",
            "train and sample at a higher resolution, or with another model.vae; no ControlNet can do better",
        )
    if math.isnan(n.follows):
        if not (n.real < BELONGS or n.vae < HELD):  # else it is said why
            yield Finding(
                "not measured",
                "chance and the best that can be reached are one, or no two rows share a size",
                "evaluate on more rows, whose conditions differ",
            )
    elif n.follows < IGNORES or not n.clear:
        yield _ignoring(n)
    elif n.train - n.follows >= MEMORISED:
        yield Finding(
            "memorising",
            f"it follows {_percent(n.train)} of the way on rows that it was trained on, and {_percent(n.follows)} on unseen ones",
            "train on more, or more different, rows, for fewer updates; take an earlier checkpoint",
        )
    elif n.follows < FOLLOWS and plateau(n.losses):
        yield Finding(
            "plateau",
            f"it follows {_percent(n.follows)} of the way, and the held-out loss has stopped falling",
            "raise train.batch first; then try train.lr twice as high, or half of it if the loss is restless",
        )
    elif n.follows < FOLLOWS:
        yield Finding(
            "follows in part",
            f"it follows {_percent(n.follows)} of the way from chance to the best that can be reached",
            "train longer: the held-out loss has not stopped falling",
        )
    if n.clear and n.follows >= IGNORES and n.follows - n.foreign >= PROMPTED:
        yield Finding(
            "leans on captions",
            f"with another row's caption it follows {_percent(n.foreign)} of the way instead of {_percent(n.follows)}",
            "raise data.caption_dropout to 0.5, so that it must look at the condition",
        )
    if n.sharpness < SHARP:
        yield Finding(
            "blurry",
            f"the generated pictures have {_percent(n.sharpness)} of the sharpness that the VAE leaves to real ones",
            "more sampler steps, or a --cfg between 3 and 8; train longer where neither helps",
        )


def _ignoring(n: Numbers) -> Finding:
    """Whether the losses see more than the pictures do."""
    if n.condition_gap is not None and n.condition_gap >= USED:
        says = f"the pictures do not follow yet, though the loss tells right from wrong conditions ({n.condition_gap:.2f} x)"
        return Finding("ignoring", says, "train longer: pictures follow later than the loss does")
    gap = "" if n.condition_gap is None else f" (condition gap {n.condition_gap:.2f} x)"
    return Finding(
        "ignoring",
        f"the pictures fit another row's map as well as their own: the condition is ignored{gap}",
        "it often comes suddenly, after thousands of updates: train longer with a larger train.batch, raise train.lr, and"
        " look at the pairs with `condprep verify`",
    )


def _well(n: Numbers) -> Finding:
    return Finding(
        "follows", f"it follows {_percent(n.follows)} of the way from chance to the best that can be reached", ""
    )


def plateau(losses: Sequence[tuple[int, float]]) -> bool:
    """Whether the last third of the validations has hardly improved on the best loss before it."""
    if len(losses) < LEAST_POINTS:
        return False
    late = len(losses) // LAST
    before, after = (min(loss for _, loss in part) for part in (losses[:-late], losses[-late:]))
    return after > before * (1 - STILL)


def _percent(part: float) -> str:
    return f"{max(0.0, 100 * part):.0f} %"
