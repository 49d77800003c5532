"""The pages of the project as tests read them: fenced blocks, sections, tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("**/*.md"))]
FENCE = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Fence:
    """A fenced block of a page. Python and bash are run; of sh the commands are parsed alone.

    words: after the language, "needs NAME:VARIANT" (its weights) or nothing.
    """

    page: Path
    line: int
    language: str
    words: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of each `condprep ...` line."""
        lines = [shlex.split(line, comments=True) for line in self.text.replace("\\\n", " ").splitlines()]
        return [line[1:] for line in lines if line[:1] == ["condprep"]] if self.language in ("bash", "sh") else []


def fences(page: Path) -> Iterator[Fence]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield Fence(page, text.count("\n", 0, match.start()) + 1, match[1], match[2] or "", match[3])


FENCES = [fence for page in PAGES for fence in fences(page)]


def section(page: Path, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    level = heading.partition(" ")[0]
    pattern = rf"^{re.escape(heading)}$\n(.*?)(?=^#{{1,{len(level)}}} |\Z)"
    found = re.search(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no heading {heading!r}"
    return found[1]


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a text: rows of cells, without their header."""
    found = re.findall(r"^\|.+\n\|[-| ]+\n((?:\|.*\n?)+)", text, re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()] for table in found]


def ticked(cell: str) -> list[str]:
    """The words in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def names_of(parameter: Any) -> tuple[str, ...]:
    """How a parameter of a command is written in the tables: its options, or its name in capitals."""
    return tuple(parameter.opts) if parameter.param_type_name == "option" else (parameter.name.upper(),)


def default_of(parameter: Any) -> str:
    """What the tables say of its default; nothing where there is none."""
    if parameter.required or parameter.default is None or parameter.default == []:
        return ""
    return "off" if parameter.default is False else str(parameter.default)
