"""What a result says of its training, where only that it says something matters."""

from __future__ import annotations

from typing import Any

RECORDED: dict[str, Any] = {
    "model": {"base": "b"},
    "family": "sd",
    "updates": 1,
    "batch": 1,
    "rows": 1,
    "dataset": "d",
    "metrics": {},
}
