"""Condition: the map alone. Does it show anything, the right way round, unspoilt, and is it of the kind it should be?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from condprep.images.decode import Pixels
from condprep.types import CONDITION_KINDS, PICTURED
from condprep.verification.check import Context, Group, Scores, Severity
from condprep.verification.features import ACCEPTED, BINARY, classify
from condprep.verification.opened import OpenedPair

EMPTY: Scores = {  # of a row whose map cannot be decoded
    **dict.fromkeys(("kind", "said", "inverted", "format", "low", "high", "spread")),
    **dict.fromkeys(("thin", "thick", "rough", "grey_levels", "ringing", "mixed", "copy")),
}
THIN = (
    0.15  # share of bright pixels inside of lines up to which these are thin: Canny's edges have none, soft edges half
)
NEAR = 3  # pixels from a strong edge that interpolation reaches; JPEG's ringing goes further, through its 8 x 8 blocks


def measure(opened: OpenedPair, context: Context) -> Scores:
    """The scores below: levels 0..255, shares 0..1."""
    rgb, head, found = opened.condition.rgb, opened.condition.header, opened.features
    if rgb is None or head is None or found is None:
        return EMPTY
    kind = classify(found)
    flat = found.coloured > 0.1 and found.same >= 0.5
    return {
        "kind": kind,
        "said": context.said,
        "inverted": opened.inverted,
        "format": head.format,
        **{name: value for name, value in asdict(found).items() if name in EMPTY},
        "grey_levels": 1 - found.extremes,
        "ringing": ringing(cv2.extractChannel(rgb, 1))
        if 0 < 1 - found.extremes < 0.6 and found.coloured <= 0.1
        else None,
        "mixed": mixed_share(rgb) if flat else None,
        "copy": opened.pair.image == opened.pair.condition,
    }


def ringing(grey: np.ndarray) -> float:
    """(H, W) uint8 -> the share of the pixels between black and white that lie far from bright ones."""
    near = cv2.dilate(cv2.threshold(grey, 127, 255, cv2.THRESH_BINARY)[1], np.ones((2 * NEAR + 1,) * 2, np.uint8))
    between = cv2.inRange(grey, 1, 254)
    return 1 - cv2.countNonZero(cv2.bitwise_and(between, near)) / max(cv2.countNonZero(between), 1)


def mixed_share(rgb: Pixels) -> float:
    """(H, W, 3) uint8 -> of the pixels where the colour changes, the share that have the colour of no neighbour (of four).

    Where colours were drawn, nearly 0; where they were blended by resampling or compression, most of them.
    """
    colours = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    alike = np.zeros(colours.shape, np.uint8)  # how many of the neighbours are equal
    across, down = colours[:, 1:] == colours[:, :-1], colours[1:] == colours[:-1]
    for part, equal in ((alike[:, 1:], across), (alike[:, :-1], across), (alike[1:], down), (alike[:-1], down)):
        part += equal
    inner = alike[1:-1, 1:-1]
    return float(np.mean(inner == 0) / max(float(np.mean(inner < 4)), 1e-9))


@dataclass(frozen=True)
class Constant:
    max_constant_range: int = 2  # levels

    name: ClassVar[str] = "constant"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        low, high = scores["low"], scores["high"]
        if low is None or high - low > self.max_constant_range or _nobody(scores):
            return None
        return f"the map shows nothing: its levels go from {low} to {high}"


@dataclass(frozen=True)
class Copy:
    name: ClassVar[str] = "copy"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        return "the map is the picture itself, byte for byte" if scores["copy"] else None


@dataclass(frozen=True)
class Range:
    min_high: int = 48  # levels
    max_constant_range: int = 2  # within which `constant` speaks

    name: ClassVar[str] = "range"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        low, high = scores["low"], scores["high"]
        if low is None or high - low <= self.max_constant_range or high >= self.min_high or scores["said"] in PICTURED:
            return None
        return f"the map is nearly black: its brightest level is {high} of 255"


@dataclass(frozen=True)
class FlatDepth:
    min_depth_range: int = 24  # levels between the 1st and the 99th percentile

    name: ClassVar[str] = "flat-depth"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        spread = scores["spread"]
        if spread is None or (scores["said"] or scores["kind"]) != "depth" or spread >= self.min_depth_range:
            return None
        return f"the depth is flat: 98 % of it lies within {spread} of 255 levels"


@dataclass(frozen=True)
class Polarity:
    name: ClassVar[str] = "polarity"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        kind = scores["inverted"]
        if not kind or scores["said"] in PICTURED:  # a white picture has a white map
            return None
        right = "normals face the viewer" if kind == "normal" else f"{_words(kind)} should be light on dark"
        return f"the map is inverted: {right}"


def spoilt_binary(scores: Scores) -> bool:
    """Whether a map that should be binary is one that became grey, and not another kind altogether."""
    said, kind = scores["said"], scores["kind"]
    thin = scores["thick"] is not None and scores["thick"] <= THIN
    return said in BINARY and (kind in (None, *BINARY) or (kind == "softedge" and (thin or said == "scribble")))


@dataclass(frozen=True)
class GreyLevels:
    max_grey: float = 0.002  # share of the pixels

    name: ClassVar[str] = "grey-levels"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        grey = scores["grey_levels"]
        if grey is None or grey <= self.max_grey or not spoilt_binary(scores):
            return None
        return f"{grey:.1%} of a binary map are neither 0 nor 255: {_cause(scores)}"


@dataclass(frozen=True)
class WasBinary:
    max_grey: float = 0.002  # share of the pixels
    max_line_core: float = THIN  # share of the bright pixels

    name: ClassVar[str] = "was-binary"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        grey, thick = scores["grey_levels"], scores["thick"]
        if (
            scores["said"]
            or scores["kind"] != "softedge"
            or not self.max_grey < grey < 0.5
            or thick > self.max_line_core
        ):
            return None
        return f"this looks like a binary map of which {grey:.1%} became grey: {_cause(scores)}"


@dataclass(frozen=True)
class MixedColours:
    max_mixed: float = 0.25  # share of the pixels at which the colour changes

    name: ClassVar[str] = "mixed-colours"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        mixed, kind = scores["mixed"], scores["said"] or scores["kind"]
        if mixed is None or kind not in ("pose", "segmentation") or mixed <= self.max_mixed:
            return None
        cause = "it was saved as JPEG" if scores["format"] == "JPEG" else "it was resized or compressed"
        return f"colours of the {kind} map are blended along {mixed:.0%} of their borders: {cause} after it was drawn"


@dataclass(frozen=True)
class Kind:
    name: ClassVar[str] = "kind"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        said, kind = scores["said"], scores["kind"]
        if not said or kind in (None, "blank") or scores["inverted"] or spoilt_binary(scores) or kind in ACCEPTED[said]:
            return None
        return f"the dataset says {_words(said)}, but this looks like {_words(kind)}"


class OddKind:
    """Rows that look like another kind than nine of ten others, in a dataset that does not say its kind. A byte a row."""

    name: ClassVar[str] = "odd-kind"
    severity: ClassVar[Severity] = "error"

    ALL = (None, "blank", "picture", "colours", *CONDITION_KINDS)
    CLEAR = 0.9  # share of the rows of a clear kind that make it the dataset's

    def __init__(self) -> None:
        self._kinds, self._said = bytearray(), False

    def add(self, scores: Scores) -> None:
        self._said = self._said or bool(scores["said"])
        self._kinds.append(self.ALL.index(None if scores["inverted"] else scores["kind"]))

    def finish(self) -> Iterator[tuple[int, str]]:
        counts = Counter({code: rows for code, rows in Counter(self._kinds).items() if code > 1})
        if self._said or not counts:
            return
        (main, rows), total = counts.most_common(1)[0], counts.total()
        if rows < self.CLEAR * total or self.ALL[main] not in CONDITION_KINDS:
            return
        accepted = ACCEPTED[str(self.ALL[main])]
        for row, code in enumerate(self._kinds):
            if code > 1 and self.ALL[code] not in accepted:
                kind, rest = _words(self.ALL[code]), _words(self.ALL[main])
                yield row, f"this looks like {kind}, where {rows / total:.0%} of the rows look like {rest}"


def _nobody(scores: Scores) -> bool:
    """Whether this is a pose map of nobody, which is legal: `nobody` of the curation warns of it."""
    return bool(scores["said"] == "pose" and not scores["high"])


def _cause(scores: Scores) -> str:
    if scores["format"] == "JPEG" or (scores["ringing"] or 0) > 0.15:
        return "it went through JPEG"
    return "it was resized or blurred after it was made"


def _words(kind: Any) -> str:
    names = {"canny": "Canny edges", "softedge": "soft edges", "scribble": "scribbles", "lineart": "line art"}
    return names.get(
        kind,
        {"pose": "a pose map", "picture": "a photograph", "colours": "a coloured picture"}.get(kind, f"a {kind} map"),
    )


CONDITION = Group(
    name="condition",
    scores={
        **dict.fromkeys(("kind", "said", "inverted", "format"), pa.string()),
        **dict.fromkeys(("low", "high", "spread"), pa.int16()),
        **dict.fromkeys(("thin", "thick", "rough", "grey_levels", "ringing", "mixed"), pa.float32()),
        "copy": pa.bool_(),
    },
    measure=measure,
    checks=(
        *(Constant(), Copy(), Range(), FlatDepth(), Polarity(), GreyLevels(), WasBinary()),
        *(MixedColours(), Kind()),
    ),
    surveys=(OddKind,),
)
