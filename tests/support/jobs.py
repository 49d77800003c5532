"""Jobs for the engine of processes that go wrong; a process that is started finds them by the name of this module."""

from __future__ import annotations

import os
from typing import Any

from condprep.errors import UsageError


def dies(device: str, told: Any, processes: int) -> Any:
    """Its process ends at once."""
    os._exit(7)


def fails(device: str, told: Any, processes: int) -> Any:
    """It cannot be begun."""
    raise UsageError("no such weights")
