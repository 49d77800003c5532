"""Structure: both pictures can be read, are of one size, stored as trainers read them; captions and keys are whole."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from condprep.verification.check import Context, Group, Scores, Severity
from condprep.verification.opened import Opened, OpenedPair

PLAIN_MODES = ("RGB", "L", "1", "P")  # read alike by every reader
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # clipped to white by `Image.convert("RGB")`
TOKENS = 77  # the length of CLIP's text input, start and end included


def measure(opened: OpenedPair, context: Context) -> Scores:
    """The scores below. Sizes in pixels, upright; tokens include start and end."""
    pair, image, condition = opened.pair, opened.image, opened.condition
    return {
        "problem": pair.problem or _problem("image", image) or _problem("condition", condition),
        **_stored("image", image),
        **_stored("condition", condition),
        **(_caption(pair.caption, context) if pair.row is not None else NO_CAPTION),
        "key_hash": _hash(pair.key) if context.keyed else None,
    }


NO_CAPTION: dict[str, Any] = {"caption": None, "tokens": None}  # where there is no row, or no column


def _problem(role: str, opened: Opened) -> str | None:
    return opened.problem and f"the {role} cannot be decoded: {opened.problem}"


def _stored(role: str, opened: Opened) -> dict[str, Any]:
    head, rgb = opened.header, opened.rgb
    return {
        f"{role}_width": None if rgb is None else rgb.shape[1],
        f"{role}_height": None if rgb is None else rgb.shape[0],
        f"{role}_mode": head and head.mode,
        f"{role}_orientation": head and head.orientation,
    }


def _caption(caption: Any, context: Context) -> dict[str, Any]:
    """What the caption is and how many tokens it has; of several the longest counts."""
    if not context.captioned:
        return NO_CAPTION
    values = caption if isinstance(caption, list) else [caption]
    if not all(isinstance(one, str) for one in values):
        wrong = next(one for one in values if not isinstance(one, str))
        return {"caption": "null" if wrong is None else type(wrong).__name__, "tokens": None}
    tokens = max(map(context.tokens, values), default=0)
    garbled = any(letter in one for one in values for letter in "\0\ufffd")
    kind = "garbled" if garbled else "text" if any(one.strip() for one in values) else "empty"
    return {"caption": kind, "tokens": tokens}


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "replace"), digest_size=8).digest(), signed=True)


@dataclass(frozen=True)
class Readable:
    name: ClassVar[str] = "readable"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        problem: str | None = scores["problem"]
        return problem


@dataclass(frozen=True)
class AspectDiffers:
    max_aspect_error: float = 1.0  # pixels of the longer side, once the shorter sides are equal

    name: ClassVar[str] = "aspect"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        image, condition = _sizes(scores)
        if image is None or condition is None:
            return None
        error = aspect_error(image, condition)
        if error <= self.max_aspect_error:
            return None
        return f"the map has another shape than the picture: {_size(condition)} and {_size(image)}, {error:.1f} px off"


@dataclass(frozen=True)
class SizeDiffers:
    max_aspect_error: float = 1.0  # beyond it, `aspect` speaks

    name: ClassVar[str] = "size"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        image, condition = _sizes(scores)
        if (
            image is None
            or condition is None
            or image == condition
            or aspect_error(image, condition) > self.max_aspect_error
        ):
            return None
        return f"the map is {_size(condition)}, the picture {_size(image)}: it would be resampled in training"


@dataclass(frozen=True)
class Grid:
    multiple: int = 8  # pixels: the latents' grid

    name: ClassVar[str] = "grid"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        image, _ = _sizes(scores)
        if image is None or self.multiple < 2 or not any(side % self.multiple for side in image):
            return None
        return f"the picture is {_size(image)}: not multiples of {self.multiple}"


@dataclass(frozen=True)
class Mode:
    name: ClassVar[str] = "mode"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        for role in ("image", "condition"):
            mode = scores[f"{role}_mode"]
            if mode and mode not in (*PLAIN_MODES, *DEEP_MODES):
                return f"the {role} is stored as {mode}, which readers turn into RGB in different ways"
        return None


@dataclass(frozen=True)
class BitDepth:
    name: ClassVar[str] = "bits"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        for role in ("image", "condition"):
            if scores[f"{role}_mode"] in DEEP_MODES:
                return f"the {role} has more than 8 bits ({scores[f'{role}_mode']}); trainers would clip it to white"
        return None


@dataclass(frozen=True)
class ExifOrientation:
    name: ClassVar[str] = "orientation"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        image, condition = (scores[f"{role}_orientation"] or 1 for role in ("image", "condition"))
        if image == condition:
            return None
        return f"EXIF turns one of the two: orientation {image} of the picture, {condition} of the map"


@dataclass(frozen=True)
class Caption:
    name: ClassVar[str] = "caption"
    severity: ClassVar[Severity] = "error"

    def __call__(self, scores: Scores) -> str | None:
        kind = scores["caption"]
        if kind in (None, "text", "empty", "garbled"):
            return None
        return "the caption is missing (null)" if kind == "null" else f"the caption is no text but {kind}"


@dataclass(frozen=True)
class NoCaption:
    name: ClassVar[str] = "no-caption"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        return "the caption is empty" if scores["caption"] == "empty" else None


@dataclass(frozen=True)
class Garbled:
    name: ClassVar[str] = "garbled"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        return "the caption has letters that were lost (U+FFFD or NUL)" if scores["caption"] == "garbled" else None


@dataclass(frozen=True)
class Truncated:
    max_tokens: int = TOKENS

    name: ClassVar[str] = "truncated"
    severity: ClassVar[Severity] = "warning"

    def __call__(self, scores: Scores) -> str | None:
        tokens = scores["tokens"]
        if not tokens or tokens <= self.max_tokens:
            return None
        return f"the caption has {tokens} tokens of CLIP; what follows the first {self.max_tokens} is cut off"


class DuplicateKeys:
    """Rows whose key an earlier row has. 8 bytes a row."""

    name: ClassVar[str] = "duplicate-key"
    severity: ClassVar[Severity] = "warning"

    def __init__(self) -> None:
        self._hashes, self._known = array("q"), True

    def add(self, scores: Scores) -> None:
        self._known = self._known and scores["key_hash"] is not None
        self._hashes.append(scores["key_hash"] or 0)

    def finish(self) -> Iterator[tuple[int, str]]:
        if not self._known or not self._hashes:
            return
        hashes = np.frombuffer(self._hashes, np.int64)
        order = np.argsort(hashes, kind="stable")
        starts = np.r_[True, np.diff(hashes[order]) != 0]  # of runs of equal keys
        first = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
        for row, earlier in sorted(zip(order[~starts].tolist(), first[~starts].tolist())):
            yield row, f"row {earlier} has the same key"


def aspect_error(a: tuple[int, int], b: tuple[int, int]) -> float:
    """How far the longer sides are apart, in pixels of `a`, when `b` is scaled so that the shorter sides are equal."""
    scale = min(a) / min(b)
    return max(abs(side - other * scale) for side, other in zip(a, b))


def _sizes(scores: Scores) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """(width, height) of picture and map; None for what could not be decoded."""
    image, condition = (
        (scores[f"{role}_width"], scores[f"{role}_height"]) if scores[f"{role}_width"] else None
        for role in ("image", "condition")
    )
    return image, condition


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"


STRUCTURE = Group(
    name="structure",
    scores={
        "problem": pa.string(),
        **{f"{role}_{side}": pa.int32() for role in ("image", "condition") for side in ("width", "height")},
        **{f"{role}_mode": pa.string() for role in ("image", "condition")},
        **{f"{role}_orientation": pa.int8() for role in ("image", "condition")},
        "caption": pa.string(),
        "tokens": pa.int32(),
        "key_hash": pa.int64(),
    },
    measure=measure,
    checks=(
        *(Readable(), AspectDiffers(), SizeDiffers(), Grid(), Mode(), BitDepth(), ExifOrientation()),
        *(Caption(), NoCaption(), Garbled(), Truncated()),
    ),
    surveys=(DuplicateKeys,),
)
