"""Weights that are there or not, as an annotator's loader asks for them."""

from __future__ import annotations

from pathlib import Path

from condprep.errors import WeightsUnavailable
from condprep.weights.find import WeightFile


class Shelf:
    """Weights with only these files, and what was said."""

    def __init__(self, *files: WeightFile, strict: bool = False) -> None:
        self.files = {file.name: file for file in files}
        self.strict = strict
        self.said: list[str] = []
        self.say = self.said.append

    def locate(self, name: str) -> Path | None:
        return self.files[name].path if name in self.files else None

    def get(self, name: str) -> WeightFile:
        if name not in self.files:
            raise WeightsUnavailable(f"{name} is not here")
        return self.files[name]
