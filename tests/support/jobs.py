"""Jobs for the engine of processes that go wrong; a process that is started finds them by the name of this module."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from condprep.annotators.canny import Canny
from condprep.building.on_devices import OpenBuilder
from condprep.building.shard import ShardBuilder
from condprep.errors import UsageError


def dies(device: str, told: Any, processes: int) -> Any:
    """Its process ends at once."""
    os._exit(7)


def fails(device: str, told: Any, processes: int) -> Any:
    """It cannot be begun."""
    raise UsageError("no such weights")


@dataclass(frozen=True)
class OneBreaks(OpenBuilder):
    """Opens what it should; but the device of the process that is the first to open it fails whenever it is used."""

    def __call__(self, device: str, told: Any, processes: int) -> ShardBuilder:
        try:
            (self.layout.root.parent / "broken").touch(exist_ok=False)
            Canny.picture = _broken  # type: ignore[method-assign]
        except FileExistsError:
            pass
        return super().__call__(device, told, processes)


def _broken(self: Canny, rgb: Any, key: str) -> Any:
    raise RuntimeError("CUDA error: unspecified launch failure")
