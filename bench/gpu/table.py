"""One table of all parts, short enough for the end of a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.gpu.figures import number

LINES, WIDTH = 60, 130


SMALL = "--tiny: this shows that every part runs; its figures are no measurements"


def table(parts: Mapping[str, Mapping[str, Any]], tiny: bool) -> str:
    """At most LINES lines of at most WIDTH characters: a heading for each part, then its figures, and what it shows."""
    room = LINES - tiny - sum(1 + bool(part["shows"] or part["why"]) for part in parts.values())
    lines = [SMALL] if tiny else []
    for name, part in parts.items():
        share = max(1, room // len(parts)) if _count(parts) > room else room
        lines.append(f"{name}: {part['status']}, {part['seconds']} s: {part['about']}")
        lines += _rows(part["figures"], share)
        if said := part["shows"] or part["why"]:
            lines.append(f"  -> {said}")
    return "\n".join(line[:WIDTH] for line in lines[:LINES])


def _count(parts: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(len(part["figures"]) for part in parts.values())


def _rows(figures: list[Mapping[str, Any]], most: int) -> list[str]:
    if len(figures) > most:
        return [*map(_row, figures[: most - 1]), f"  {len(figures) - most + 1} more are in gpu.json"]
    return list(map(_row, figures))


def _row(figure: Mapping[str, Any]) -> str:
    value = "" if figure["value"] is None else f"{number(figure['value'])} {figure['unit']}"
    return f"  {figure['what']:28} {value:>20}  {figure['note']}".rstrip()
