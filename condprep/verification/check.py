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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from condprep.errors import UsageError
from condprep.verification.opened import OpenedPair
from condprep.verification.tokens import TokenCounter

if TYPE_CHECKING:
    import pyarrow as pa

Severity = Literal["info", "warning", "error"]
SEVERITIES: Sequence[Severity] = ("info", "warning", "error")
Scores = Mapping[str, Any]  # name -> number, word or None where there is nothing to measure


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for all pairs of a dataset."""

    said: str | None  # the kind of condition that the dataset says it has
    captioned: bool
    keyed: bool
    tokens: TokenCounter


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
