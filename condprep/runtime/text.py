"""Text of others: its lines, and how it is shown on a terminal or in Markdown. File names and records may hold anything."""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    r"[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)  # escapes, turned writing
_LINE_END = re.compile(r"\r\n|\r|\n")
_MARKDOWN = re.compile(r"[\\`*\[\]<>|]")
_LONGEST = 300  # letters of a word of others in a card


def plain(text: str) -> str:
    """What a terminal would act on, spelled out: the escape character as \\x1b. Line ends and tabs stay."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def plain_json(text: str) -> str:
    """The same of JSON, as JSON spells it."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def markdown(value: object) -> str:
    """As a word in Markdown, on one line, that is no markup and no HTML."""
    line = " ".join(plain(str(value)[:_LONGEST]).split())
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", line)


def lines_of(text: str) -> list[str]:
    """Its lines, as files have them: `str.splitlines` also parts where Unicode has a separator, which words hold that were copied from
    a page."""
    return _LINE_END.split(text)
