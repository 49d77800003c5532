"""What a check is: a measurement of pixels that runs in threads, and rules that judge its numbers.

A group (structure, condition, ...) measures each pair once: `measure` gets both pictures decoded and returns scores,
the columns of verify.parquet. Its checks see nothing but the scores of a row, so they are cheap, and a threshold can be
changed without looking at a pixel again.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import cv2
import numpy as np

from condprep.dataset.pairs.base import Pair
from condprep.errors import Rejected, UsageError
from condprep.images.decode import Header, Pixels, decode, header
from condprep.verification.kinds import Features, features, inverted_kind

if TYPE_CHECKING:
    import pyarrow as pa

    from condprep.verification.alignment.reannotate import Again
    from condprep.verification.quality.tokens import TokenCounter

Severity = Literal["info", "warning", "error"]
SEVERITIES: Sequence[Severity] = ("info", "warning", "error")
Scores = Mapping[str, Any]  # name -> number, word or None where there is nothing to measure


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a row."""

    row: int | None  # None: not a row, but a damaged file or a picture without a map
    key: str
    check: str  # the group: "structure", "condition", ...
    rule: str  # which check of the group: "size", "polarity", ...
    severity: Severity
    reason: str
    twin: int | None = None  # the earlier row that this one repeats

    def public(self) -> dict[str, Any]:
        """As `verify --json` prints it."""
        return {name: getattr(self, name) for name in ("row", "key", "check", "severity", "reason")}


@dataclass(frozen=True, slots=True)
class Opened:
    """One encoded picture, decoded; `problem` says why it could not be."""

    header: Header | None = None
    rgb: Pixels | None = None  # (H, W, 3) uint8, upright
    problem: str | None = None


@dataclass(frozen=True)
class OpenedPair:
    """What a group measures; what several groups want to know of it is found out once."""

    pair: Pair
    image: Opened
    condition: Opened

    @property
    def grey(self) -> bool:
        """Whether the map is stored with one channel."""
        return self.condition.header is not None and self.condition.header.mode in ("1", "L")

    @property
    def content(self) -> Pixels | None:
        """The picture without the black that a build put around it, (H, W, 3) uint8; None where it cannot be decoded."""
        rgb, (top, left) = self.image.rgb, self.pair.padding
        inner = None if rgb is None else rgb[top : rgb.shape[0] - top, left : rgb.shape[1] - left]
        return rgb if inner is None or not inner.size else inner

    @cached_property
    def features(self) -> Features | None:
        """Of the map; None where it cannot be decoded."""
        rgb = self.condition.rgb
        return None if rgb is None else features(rgb, self.grey)

    @cached_property
    def map(self) -> Pixels | None:
        """The map, (H, W) uint8 where it is grey, else (H, W, 3); None where it cannot be decoded."""
        rgb, found = self.condition.rgb, self.features
        return (
            rgb if rgb is None or found is None or found.coloured else np.asarray(cv2.extractChannel(rgb, 1), np.uint8)
        )

    @cached_property
    def inverted(self) -> str | None:
        """The kind of a map that is inverted."""
        rgb, found = self.condition.rgb, self.features
        return None if rgb is None or found is None else inverted_kind(rgb, found, self.grey)


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for all pairs of a dataset."""

    said: str | None  # the kind of condition that the dataset says it has
    captioned: bool
    keyed: bool
    tokens: TokenCounter
    again: Again | None = None  # maps made again; None: no annotator is known


class Check(Protocol):
    """A rule: a frozen dataclass whose fields are its thresholds. Picklable."""

    name: ClassVar[str]  # unique in its group
    severity: ClassVar[Severity]

    def __call__(self, scores: Scores) -> str | None:
        """The reason why the row is not as it should be, or None."""
        ...


class Survey(Protocol):
    """A rule about rows together. Its state is a few bytes a row."""

    name: ClassVar[str]
    severity: ClassVar[Severity]

    def add(self, scores: Scores) -> None:
        """The scores of the next row."""
        ...

    def finish(self) -> Iterator[tuple[int, str] | tuple[int, str, int]]:
        """(row, reason) of the rows that are not as they should be, ascending; with the row that it repeats, if so."""
        ...


@dataclass(frozen=True)
class Group:
    """Checks that share a measurement."""

    name: str
    scores: Mapping[str, pa.DataType]  # what `measure` returns, every key always; more than that is for surveys alone
    measure: Callable[[OpenedPair, Context], Scores]  # thread-safe
    checks: Sequence[Check] = ()
    surveys: Sequence[Callable[[], Survey]] = ()  # classes: each run needs fresh ones
    together: Callable[[], Sequence[Survey]] = tuple  # makes those that share what they remember

    def fresh_surveys(self) -> list[Survey]:
        """New ones, for a run."""
        return [*(make() for make in self.surveys), *self.together()]


def open_picture(data: bytes) -> Opened:
    """Decode, without raising."""
    try:
        head = header(data)
        return Opened(head, decode(data).rgb)
    except Rejected as rejected:
        return Opened(problem=rejected.reason)


def open_pair(pair: Pair) -> OpenedPair:
    """Decode both pictures, without raising."""
    image, condition = (Opened() if pair.problem else open_picture(data) for data in (pair.image, pair.condition))
    return OpenedPair(pair, image, condition)


def configure(groups: Sequence[Group], settings: Mapping[str, Mapping[str, Any]]) -> list[Group]:
    """The groups with other thresholds: {"structure": {"max_aspect_error": 2}}.

    Raises UsageError for an unknown group or threshold and for a value that is no number of its range.
    """
    known = [group.name for group in groups]
    if stray := [name for name in settings if name not in known]:
        raise UsageError(f"--set {stray[0]}: no such check{nearest(stray[0], known)}")
    return [_configured(group, settings.get(group.name, {})) for group in groups]


def thresholds(group: Group) -> dict[str, float]:
    """Every threshold of a group with its default."""
    return {field.name: field.default for check in group.checks for field in fields(check)}  # type: ignore[arg-type,misc]


def _configured(group: Group, settings: Mapping[str, Any]) -> Group:
    known = thresholds(group)
    values = {}
    for name, value in settings.items():
        if name not in known:
            raise UsageError(f"--set {group.name}.{name}: no such threshold{nearest(name, list(known))}")
        values[name] = _number(f"{group.name}.{name}", value, known[name])
    changed = [
        replace(check, **{name: value for name, value in values.items() if hasattr(check, name)})  # type: ignore[type-var]
        for check in group.checks
    ]
    return replace(group, checks=changed)


def _number(name: str, value: Any, default: float) -> float:
    """A value of the default's type. Shares (defaults below 1) are 0..1, everything else is not negative."""
    most = 1.0 if isinstance(default, float) and default < 1 else math.inf
    try:
        number = type(default)(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= most or math.isinf(number):
        kind = (
            "a share from 0 to 1"
            if most == 1
            else f"{'an integer' if isinstance(default, int) else 'a number'} from 0 on"
        )
        raise UsageError(f"--set {name}={value}: it must be {kind} (default {default:g})")
    return number


def nearest(word: str, words: Sequence[str]) -> str:
    """The end of a sentence about an unknown word: which one may have been meant, or all that there are."""
    near = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(words)}"
