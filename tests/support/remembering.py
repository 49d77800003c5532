"""Networks that are asked about the same pictures several times in a test, and compute once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Remembering:
    """Before an annotator among a class's bases: about the same batch it says what it has said, as a function of its pixels may."""

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> Any:
        said: dict[bytes, Any] = self.__dict__.setdefault("said", {})
        pixels = repr(rgb.shape).encode() + rgb.numpy().tobytes()
        if pixels not in said:
            said[pixels] = super().__call__(rgb, keys)  # type: ignore[misc]
        return said[pixels]
