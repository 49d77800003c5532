"""Small sources, and errors at the right moment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support.pictures import smooth

SMALL = {"resolution": 64, "shard_rows": 5}
FIVE_SHARDS: dict[str, Any] = {"resolution": 64, "shard_rows": 2, "validation": 0.4, "workers": 1}  # of nine pictures


def pictures(folder: Path, number: int = 12) -> Path:
    folder.mkdir()
    for n in range(number):
        Image.fromarray(np.roll(smooth(80, 80), 5 * n, 0)).save(folder / f"{n:02d}.png")
    return folder


def failing(error: Callable[[str], BaseException], when: Callable[[str], bool]) -> Callable[..., Any]:
    """`os.open` that fails for some paths."""
    real = os.open

    def opened(path: Any, *arguments: Any, **more: Any) -> int:
        if when(str(path)):
            raise error(str(path))
        return real(path, *arguments, **more)

    return opened


def os_error(number: int) -> Callable[[str], OSError]:
    return lambda path: OSError(number, os.strerror(number), path)
