"""Speed, memory and quality, measured from a checkout: `python -m bench --list`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("CONDPREP_SHARED", CHECKOUT.parent / "shared"))  # pictures with ground truth, and weights

sys.path.append(str(CHECKOUT / "tests"))  # networks and bases that the tests use, too


def environment(**more: str) -> dict[str, str]:
    """Of a process of its own that imports this checkout, wherever it runs."""
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path} | more
