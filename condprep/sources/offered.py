"""Where no column is called as captions are: of the other columns the one that looks as if they were in it, to be offered."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

OFFER = "no captions: did you mean --caption-column "
WORDS = ("caption", "prompt", "description", "text", "sentence", "label", "alt", "title")  # the likelier ones first
MAX_NAME = 100  # letters of a name that is worth a line


def offer(columns: Iterable[str]) -> str | None:
    """What to say of columns of text, none of which was taken for the captions; None where none of them looks like them."""
    likely = {name: _place(name) for name in columns if len(name) <= MAX_NAME and name.isprintable()}
    found = sorted((place, name) for name, place in likely.items() if place is not None)
    return f"{OFFER}{shlex.quote(found[0][1])}?" if found else None


def _place(name: str) -> tuple[int, int] | None:
    """Which of WORDS a name holds, and how many others: "prompt" before "text_en"; nothing of what is not to be seen."""
    parts = [
        part.removesuffix("s") for part in re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    ]
    if "negative" in parts:
        return None
    return next(((number, len(parts)) for number, word in enumerate(WORDS) if word in parts), None)
