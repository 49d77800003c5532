"""Captions that a dataset is better without: one for many pictures, one opening for all, markup, another language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from condprep.verification.check import Scores, Severity

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

T = TypeVar("T")

LONGEST = 1000  # letters of a caption that are looked at
OPENING = 4  # words
SHOWN = 60  # letters of a caption in a reason
MARKUP = re.compile(
    r"</?[a-z][^<>]{0,200}>|&(?:[a-z]{2,8}|#\d{1,7});|https?://\S|\b(?:img|dsc|dscn|pxl)[_-]?\d{3,}\b|\w\.(?:jpe?g|png|webp|gif)\b",
    re.IGNORECASE,
)
CLEAR = 0.9  # probability from which a language is taken for known
WORDS = 4  # in shorter captions no language can be told


def measure_caption(caption: Any) -> dict[str, str | None]:
    """What surveys count of it (its words in small letters, the first of them where more follow), markup, and language.

    Of several captions the first counts; all are None where there is none.
    """
    text = caption[0] if isinstance(caption, list) and caption else caption
    if not isinstance(text, str) or not text.strip():
        return dict.fromkeys(("caption_text", "opening", "markup", "language"))
    text = text[:LONGEST]
    words = text.lower().split()
    found = MARKUP.search(text)
    return {
        "caption_text": " ".join(words),
        "opening": " ".join(words[:OPENING]) if len(words) > OPENING else None,
        "markup": found and found[0][:SHOWN],
        "language": language(text) if len(words) >= WORDS else None,
    }


def language(text: str) -> str | None:
    """The ISO 639 code of a text's language; None where it is not clear."""
    code, probability = _identifier().classify(text)
    return str(code) if probability >= CLEAR else None


@cache
def _identifier() -> LanguageIdentifier:
    """Langid's model as py3langid ships it: 4.6 MB, arrays alone."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class Frequent(Generic[T]):
    """The values that make up more than 1 / `places` of a stream, in memory for `places` of them.

    Misra and Gries, Finding repeated elements (1982): each count is too small by at most 1 / places of the stream.
    """

    def __init__(self, places: int = 1000) -> None:
        self.places, self.total = places, 0
        self.counts: dict[T, int] = {}
        self.first: dict[T, int] = {}  # where a counted value was seen first, since it is counted

    def add(self, value: T, where: int) -> None:
        self.total += 1
        if value in self.counts:
            self.counts[value] += 1
        elif len(self.counts) < self.places:
            self.counts[value], self.first[value] = 1, where
        else:
            self.counts = {other: count - 1 for other, count in self.counts.items() if count > 1}
            self.first = {other: self.first[other] for other in self.counts}

    def above(self, share: float, least: int) -> Iterator[tuple[int, T, int]]:
        """(where, value, count) of the values that make up more than `share`, and at least `least`; by where."""
        for value, count in sorted(self.counts.items(), key=lambda item: self.first[item[0]]):
            if count >= max(least, share * self.total):
                yield self.first[value], value, count


class RepeatedCaption:
    """One caption for many pictures, told at the first of them. Memory for a thousand captions."""

    name: ClassVar[str] = "repeated-caption"
    severity: ClassVar[Severity] = "warning"

    SHARE, LEAST = 0.02, 10  # of the rows, and rows

    def __init__(self) -> None:
        self._row, self._captions = -1, Frequent[str]()

    def add(self, scores: Scores) -> None:
        self._row += 1
        if text := scores["caption_text"]:
            self._captions.add(text, self._row)

    def finish(self) -> Iterator[tuple[int, str]]:
        for row, text, count in self._captions.above(self.SHARE, self.LEAST):
            yield row, f"{count:,} of {self._row + 1:,} pictures have the same caption: {_shown(text)}"


class Boilerplate:
    """An opening that many captions share, told at the first of them. Memory for a thousand openings."""

    name: ClassVar[str] = "boilerplate"
    severity: ClassVar[Severity] = "info"

    SHARE, LEAST = 0.2, 20  # of the rows, and rows

    def __init__(self) -> None:
        self._row, self._openings = -1, Frequent[str]()

    def add(self, scores: Scores) -> None:
        self._row += 1
        if opening := scores["opening"]:
            self._openings.add(opening, self._row)

    def finish(self) -> Iterator[tuple[int, str]]:
        for row, opening, count in self._openings.above(self.SHARE, self.LEAST):
            yield row, f"{count:,} of {self._row + 1:,} captions begin alike: {_shown(opening)}"


class Language:
    """Captions in another language than nearly all others, and a dataset that is not in English. A byte a row."""

    name: ClassVar[str] = "language"
    severity: ClassVar[Severity] = "info"

    LEAST = 20  # rows whose language is clear
    MAIN = 0.8  # share of these from which a dataset has a language

    def __init__(self) -> None:
        self._codes: list[str | None] = [None]
        self._rows = bytearray()

    def add(self, scores: Scores) -> None:
        if scores["language"] not in self._codes:
            self._codes.append(scores["language"])
        self._rows.append(self._codes.index(scores["language"]))

    def finish(self) -> Iterator[tuple[int, str]]:
        counts = {number: self._rows.count(number) for number in range(1, len(self._codes))}
        known = sum(counts.values())
        if known < self.LEAST:
            return
        main = max(counts, key=lambda number: counts[number])
        share, code = counts[main] / known, self._codes[main]
        if code != "en":
            reason = f"{share:.0%} of the captions are in another language than English, which CLIP knows: {code!r}"
            yield self._rows.index(main), reason
        for row, number in enumerate(self._rows if share >= self.MAIN else b""):
            if number not in (0, main):
                yield row, f"the caption's language is {self._codes[number]!r}, where {share:.0%} are {code!r}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")
