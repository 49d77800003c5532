"""Alignment: the map against its picture. Does it lie on it to the pixel, and is it this picture's at all?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from condprep.images.decode import Pixels
from condprep.types import PICTURED
from condprep.verification.alignment.comparison import LINE_KINDS, OTHER, Alignment, compare_picture
from condprep.verification.alignment.offsets import Descriptor, Offsets, describe
from condprep.verification.alignment.pictured import EXPLAINED, compare_pictured
from condprep.verification.alignment.shared_shift import SharedShift
from condprep.verification.check import Context, Group, Scores, Severity
from condprep.verification.features import classify
from condprep.verification.opened import OpenedPair

EMPTY: Scores = {  # of a row whose picture or map cannot be decoded
    **dict.fromkeys(("alignment", "compared_with", "misfit", "shift_x", "shift_y", "orientation")),
    **dict.fromkeys(("scale", "fit", "here", "likeness")),
    "descriptors": (None, None),
    "lean": None,
}
FINEST = 1.5  # pixels of a shift that gradients may tell
UNCLEAR = "unclear"  # a kind that nobody tells
THIN = 0.5  # share of the brightness in thin structures from which a map of no clear kind is one of lines


@dataclass(frozen=True, slots=True)
class Reannotated:
    """What is known of a row whose map was made again."""

    alignment: Alignment
    made: Descriptor | None  # of a pose that was found: the picture itself does not resemble it
    own: bool = True  # whether by the annotator that made the stored map


Reannotate = Callable[[OpenedPair], Reannotated | None]  # None: of this row no map was made again


def measure(opened: OpenedPair, context: Context, reannotate: Reannotate | None = None) -> Scores:
    """The scores below: shifts in pixels, degrees of fit in units of noise. And for surveys the row's descriptors and lean."""
    picture, stored = opened.image.rgb, opened.map
    if picture is None or stored is None:
        return EMPTY
    kind = _kind(opened, context)
    reannotated = reannotate(opened) if reannotate else None
    alignment = reannotated.alignment if reannotated else _compared(picture, stored, kind)
    made: Descriptor | None = describe(picture) if kind != "pose" else reannotated.made if reannotated else None
    by = "made again" if reannotated and reannotated.own else "other poses" if reannotated else "picture"
    by = "own pixels" if kind in PICTURED else by
    return {**_scores(alignment, by), "lean": alignment.lean, "descriptors": (made, describe(stored, kind))}


def _compared(picture: Pixels, stored: Pixels, kind: str) -> Alignment:
    pictured = kind in PICTURED
    return compare_pictured(picture, stored, kind) if pictured else compare_picture(picture, stored, kind, FINEST)


def _kind(opened: OpenedPair, context: Context) -> str:
    """What the dataset says, else what the map looks like, where that is clear: soft edges may look like depth."""
    assert opened.features is not None
    looks = opened.inverted or classify(opened.features)
    clear = looks if looks in ("pose", "normal", *LINE_KINDS) else None
    return context.said or clear or ("lineart" if looks is None and opened.features.thin >= THIN else UNCLEAR)


def _scores(found: Alignment, compared_with: str) -> Scores:
    """Rounded: the last bits of a correlation depend on where its arrays lie in memory."""
    return {
        "alignment": found.verdict,
        "compared_with": None if found.verdict == "unknown" else compared_with,
        "misfit": found.reason if found.wrong else None,
        "shift_x": found.shift[0],
        "shift_y": found.shift[1],
        "orientation": found.orientation,
        "scale": found.scale,
        "fit": round(found.score, 1),
        "here": round(found.here, 1),
        "likeness": found.likeness and round(found.likeness, 3),
    }


@dataclass(frozen=True)
class Shifted:
    min_shift: int = 3  # pixels, compared with the picture, or with poses that another annotator finds
    min_known_shift: int = 2  # pixels, compared with the map made again, or of kinds that are the picture itself

    name: ClassVar[str] = "shifted"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        if scores["alignment"] != "shifted":
            return None
        exact = scores["compared_with"] in ("made again", "own pixels")
        limit = self.min_known_shift if exact else self.min_shift
        return _misfit(scores) if max(abs(scores["shift_x"]), abs(scores["shift_y"])) >= limit else None


@dataclass(frozen=True)
class Flipped:
    name: ClassVar[str] = "flipped"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        return _misfit(scores) if scores["alignment"] == "flipped" else None


@dataclass(frozen=True)
class Turned:
    name: ClassVar[str] = "turned"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        return _misfit(scores) if scores["alignment"] == "turned" else None


@dataclass(frozen=True)
class Scaled:
    min_scaling: float = 0.01  # difference from 1

    name: ClassVar[str] = "scaled"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        scaled = scores["alignment"] == "scaled" and abs(scores["scale"] - 1) >= self.min_scaling
        return _misfit(scores) if scaled else None


@dataclass(frozen=True)
class Cropped:
    name: ClassVar[str] = "cropped"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        return _misfit(scores) if scores["alignment"] == "cropped" else None


@dataclass(frozen=True)
class OtherPicture:
    min_fit: float = 5.0  # in units of noise, of a map on its picture
    min_likeness: float = 0.1  # of a map to the one made again, as a share of its likeness to itself
    min_explained: float = (
        EXPLAINED  # share of a map that is the picture itself, less something, which the picture explains
    )

    name: ClassVar[str] = "other-picture"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        if scores["alignment"] not in ("aligned", "other picture"):
            return None
        likeness = self.min_explained if scores["compared_with"] == "own pixels" else self.min_likeness
        by_picture = scores["compared_with"] == "picture"
        measured, limit = (scores["here"], self.min_fit) if by_picture else (scores["likeness"], likeness)
        return OTHER if measured is not None and measured < limit else None


class OutOfStep:
    """Runs of rows whose maps belong to the rows before or after, or to none nearby. 29 bytes a row."""

    name: ClassVar[str] = "out-of-step"
    severity: ClassVar[Severity] = "error"

    def __init__(self) -> None:
        self._offsets, self._fits = Offsets(), bytearray()

    def add(self, scores: Scores) -> None:
        self._offsets.add(*scores["descriptors"])
        self._fits.append(scores["alignment"] in ("aligned", "shifted"))

    def finish(self) -> Iterator[tuple[int, str]]:
        """One finding a run, at its first row, unless most of its maps were found to fit their own picture."""
        fits = np.frombuffer(self._fits, np.uint8)
        for run in self._offsets.runs():
            if run.offset != 0 and fits[run.first : run.last + 1].mean() < 0.5:
                yield run.first, run.reason(len(fits))


def summary(verdicts: Sequence[tuple[str | None, str | None]], annotator: str | None) -> str:
    """In words what the rows were compared with: (alignment, compared_with) of each, and what made maps again."""
    counts = Counter(compared_with for _, compared_with in verdicts)
    parts = [
        f"{counts['made again']:,} with the maps that {annotator} makes of them" if counts["made again"] else "",
        f"{counts['other poses']:,} with the poses that {annotator} finds in them" if counts["other poses"] else "",
        f"{counts['picture']:,} with the gradients of their picture" if counts["picture"] else "",
        f"{counts['own pixels']:,} with the pixels of their picture" if counts["own pixels"] else "",
        f"{counts[None]:,} with nothing, since too little can be told" if counts[None] else "",
    ]
    return f"alignment: of {len(verdicts):,} rows compared " + ", ".join(filter(None, parts))


def _misfit(scores: Scores) -> str:
    reason: Any = scores["misfit"]
    return str(reason)


ALIGNMENT = Group(
    name="alignment",
    scores={
        **dict.fromkeys(("alignment", "compared_with", "misfit"), pa.string()),
        **dict.fromkeys(("shift_x", "shift_y"), pa.int32()),
        "orientation": pa.string(),
        **dict.fromkeys(("scale", "fit", "here", "likeness"), pa.float32()),
    },
    measure=measure,
    checks=(Shifted(), Flipped(), Turned(), Scaled(), Cropped(), OtherPicture()),
    surveys=(OutOfStep, SharedShift),
)


def reannotating(group: Group, reannotate: Reannotate) -> Group:
    """The group, comparing with maps made again, where there are any."""
    return replace(group, measure=partial(measure, reannotate=reannotate))
