"""Curation: pairs that are right, and yet better left out: repeated, blurred, dark, empty, badly captioned."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

import numpy as np
import pyarrow as pa
import xxhash

from condprep.verification.check import Context, Group, Scores, Severity
from condprep.verification.features import LINES, classify
from condprep.verification.opened import OpenedPair
from condprep.verification.quality import duplicates
from condprep.verification.quality.captions import Boilerplate, Language, RepeatedCaption, measure_caption
from condprep.verification.quality.lookalikes import grey_thumbnail
from condprep.verification.quality.picture import Quality, greyed, quality_of_grey

UNSEEN: Scores = dict.fromkeys((*(field.name for field in fields(Quality)), "aspect", "pixels", "thumbnail"))


def measure(opened: OpenedPair, context: Context) -> Scores:
    """The scores below. Levels 0..255, shares 0..1; the thumbnail and the words of the caption are for the surveys alone."""
    caption = opened.pair.caption if context.captioned else None
    return {
        "split": opened.pair.split,
        **_picture(opened),
        **_map(opened, context.said),
        **measure_caption(caption),
    }


def _picture(opened: OpenedPair) -> Scores:
    """The shape, a hash of all pixels in 63 bits; and of what its build did not put around it the quality and a thumbnail."""
    rgb, content = opened.image.rgb, opened.content
    if rgb is None or content is None:
        return UNSEEN
    height, width, _ = rgb.shape
    grey = greyed(content)
    return {
        **asdict(quality_of_grey(grey)),
        "aspect": max(height, width) / min(height, width),
        "pixels": xxhash.xxh3_64_intdigest(rgb.data, seed=height << 32 | width) >> 1,
        "thumbnail": grey_thumbnail(grey).tobytes(),
    }


def _map(opened: OpenedPair, said: str | None) -> Scores:
    """How much of a map of lines is drawn, and whether a pose map shows nobody."""
    found = opened.features
    if found is None:
        return {"drawn": None, "nobody": None}
    kind = said or classify(found)
    return {
        "drawn": 1 - found.dark if kind in LINES else None,
        "nobody": kind == "pose" and not found.high,
    }


@dataclass(frozen=True)
class Blurred:
    min_sharpness: float = 0.42  # 1 / pixels

    name: ClassVar[str] = "blurred"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        sharp = scores["sharpness"]
        if sharp is None or sharp >= self.min_sharpness:
            return None
        return f"the picture is blurred: its sharper edges are {1 / max(sharp, 0.01):.1f} px wide"


@dataclass(frozen=True)
class Upscaled:
    min_held: float = 0.6  # share of the resolution
    min_sharpness: float = 0.42  # below it, `blurred` speaks

    name: ClassVar[str] = "upscaled"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        held, sharp = scores["held"], scores["sharpness"]
        if held is None or held >= self.min_held or sharp is None or sharp < self.min_sharpness:
            return None
        return f"the picture was enlarged: it holds no detail beyond {held:.0%} of its resolution"


@dataclass(frozen=True)
class Dark:
    min_light: int = 48  # levels, of which 95 % of the picture are darker

    name: ClassVar[str] = "dark"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        light = scores["light"]
        if light is None or light >= self.min_light:
            return None
        return f"the picture is under-exposed: 95 % of it are no lighter than {light} of 255"


@dataclass(frozen=True)
class Light:
    max_dark: int = 180  # levels, of which 95 % of the picture are lighter

    name: ClassVar[str] = "light"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        dark = scores["dark"]
        if dark is None or dark <= self.max_dark:
            return None
        return f"the picture is over-exposed: 95 % of it are no darker than {dark} of 255"


@dataclass(frozen=True)
class Flat:
    min_range: int = 16  # levels

    name: ClassVar[str] = "flat"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        levels = scores["range"]
        if levels is None or levels >= self.min_range:
            return None
        return f"the picture shows next to nothing: 98 % of it lie within {levels} of 255 levels"


@dataclass(frozen=True)
class ExtremeAspect:
    max_aspect: float = 3.0  # longer side / shorter side

    name: ClassVar[str] = "extreme-aspect"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        aspect = scores["aspect"]
        if aspect is None or aspect <= self.max_aspect:
            return None
        return f"one side of the picture is {aspect:.1f} times the other"


@dataclass(frozen=True)
class JpegDamage:
    max_blocks: float = 2.0  # levels

    name: ClassVar[str] = "jpeg-damage"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        blocks = scores["blocks"]
        if blocks is None or blocks <= self.max_blocks:
            return None
        return f"JPEG has left blocks in the picture: their borders are {blocks:.1f} levels high on average"


@dataclass(frozen=True)
class Bars:
    max_bars: float = 0.05  # share of the height or the width

    name: ClassVar[str] = "bars"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        bars = scores["bars"]
        return f"black bars take {bars:.0%} of the picture" if bars and bars > self.max_bars else None


@dataclass(frozen=True)
class Nobody:
    name: ClassVar[str] = "nobody"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        return "nobody was found in the picture: the pose map is black" if scores["nobody"] else None


@dataclass(frozen=True)
class Markup:
    name: ClassVar[str] = "markup"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        return (
            f"the caption has markup, an address or a file name in it: {scores['markup']!r}"
            if scores["markup"]
            else None
        )


class Density:
    """Maps of lines with far more, or far fewer, lines than the others. 4 bytes a row."""

    name: ClassVar[str] = "edge-density"
    severity: ClassVar[Severity] = "info"

    LEAST = 50  # rows
    FAR = 6.0  # standard deviations of the logarithm, by the median deviation
    TIMES = 4.0  # as many, or as few

    def __init__(self) -> None:
        self._drawn = array("f")

    def add(self, scores: Scores) -> None:
        drawn = scores["drawn"]
        self._drawn.append(np.nan if drawn is None else drawn)

    def finish(self) -> Iterator[tuple[int, str]]:
        drawn = np.frombuffer(self._drawn, np.float32)
        logs = np.log(np.maximum(drawn, 1e-4))
        if np.count_nonzero(np.isfinite(logs)) < self.LEAST:
            return
        middle = float(np.nanmedian(logs))
        spread = max(1.4826 * float(np.nanmedian(np.abs(logs - middle))), 1e-3)
        for row in np.flatnonzero(np.abs(logs - middle) > max(self.FAR * spread, np.log(self.TIMES))).tolist():
            yield row, f"lines cover {drawn[row]:.1%} of the map, where {np.exp(middle):.1%} are usual"


CURATION = Group(
    name="curation",
    scores={
        "split": pa.string(),
        **dict.fromkeys(("sharpness", "held", "blocks"), pa.float32()),
        **dict.fromkeys(("dark", "light", "range"), pa.int16()),
        **dict.fromkeys(("bars", "aspect"), pa.float32()),
        "pixels": pa.int64(),
        "drawn": pa.float32(),
        "nobody": pa.bool_(),
        **dict.fromkeys(("markup", "language"), pa.string()),
    },
    measure=measure,
    checks=(
        *(Blurred(), Upscaled(), Dark(), Light(), Flat(), ExtremeAspect(), JpegDamage(), Bars()),
        *(Nobody(), Markup()),
    ),
    surveys=(Density, RepeatedCaption, Boilerplate, Language),
    together=duplicates.surveys,
)
