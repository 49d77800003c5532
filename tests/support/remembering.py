"""Networks that are asked about the same pictures several times in a test, and compute once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Remembering:
    """Before one who finds people among a class's bases: those of a batch that it has seen are whom it found, by its pixels alone."""

    def find(self, rgb: Tensor) -> Sequence[Any]:
        found: dict[bytes, Sequence[Any]] = self.__dict__.setdefault("found", {})
        pixels = repr(rgb.shape).encode() + rgb.numpy().tobytes()
        if pixels not in found:
            found[pixels] = super().find(rgb)  # type: ignore[misc]
        return found[pixels]
