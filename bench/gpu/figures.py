"""What a part has found, on disk as soon as it is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condprep.runtime.files import commit_text


@dataclass
class Figures:
    """Figures in their order, and one line that says what they show."""

    file: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    shows: str = ""

    def add(self, what: str, value: float | None, unit: str, note: str = "", **more: Any) -> None:
        """value: None where it could not be had, and the note says why. more: what the table has no room for."""
        self.rows.append({"what": what, "value": value, "unit": unit, "note": note, **more})
        self._write()

    def say(self, line: str) -> None:
        self.shows = line
        self._write()

    def value(self, what: str) -> float | None:
        return next((row["value"] for row in self.rows if row["what"] == what), None)

    def _write(self) -> None:
        commit_text(self.file, json.dumps({"figures": self.rows, "shows": self.shows}))


def read_figures(file: Path) -> Mapping[str, Any]:
    """What is there so far."""
    return json.loads(file.read_text()) if file.exists() else {"figures": [], "shows": ""}


def number(value: float) -> str:
    """Three digits: 0.0123, 1.23, 12.3, 1,234."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(a: float | None, b: float | None) -> str:
    return f"{a / b:.2f} x" if a and b else "?"
