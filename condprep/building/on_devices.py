"""A build on several devices: which ones, and what each of their processes opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from condprep.annotators.registry import check_device
from condprep.building.load_annotators import load_annotators
from condprep.building.options import BuildOptions
from condprep.building.plan import Plan
from condprep.building.shard import SHARE, ShardBuilder
from condprep.dataset.layout import Layout
from condprep.errors import DatasetError, UsageError
from condprep.runtime.memory import usable_memory
from condprep.runtime.progress import Progress
from condprep.sources.base import Source
from condprep.weights.find import Weights


def parse_devices(devices: str | Sequence[str] | None, device: str) -> list[str]:
    """ "all", "cuda:0,cuda:1" or a list of them -> each device; none where only `device` is given. Raises UsageError."""
    if devices is None:
        return []
    if device != "auto":
        raise UsageError(f"--device {device} is one device and --devices {devices} are several: give one of the two")
    if devices == "all":
        import torch

        devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        if not devices:
            raise UsageError("--devices all: torch sees no CUDA device; --devices cpu,cpu starts two processes without")
    named = devices.split(",") if isinstance(devices, str) else list(devices)
    if not all(named):
        raise UsageError(f"--devices {devices!r} names no device somewhere; write all, cuda:0,cuda:1 or cpu,cpu")
    return [check_device(one) for one in named]


@dataclass(frozen=True)
class OpenBuilder:
    """What opens, in another process, the builder of a plan that is written."""

    layout: Layout
    source: Source
    options: BuildOptions
    weights: Weights
    columns: Mapping[str, pa.DataType]

    def __call__(self, device: str, told: Callable[[int, int], None], processes: int) -> ShardBuilder:
        plan = written_plan(self.layout)
        annotators = load_annotators(self.source, self.options, plan.config["annotators"], device, self.weights)
        return ShardBuilder(
            self.layout,
            plan,
            self.source,
            self.options,
            annotators,
            self.columns,
            telling(told),
            memory=share_of_memory(processes),
            sharing=processes,
        )


def written_plan(layout: Layout) -> Plan:
    """Raises DatasetError where it is gone."""
    plan = Plan.load(layout.private)
    if plan is None:
        raise DatasetError(f"{layout.private / 'plan.json'} is gone; start afresh with --overwrite")
    return plan


def share_of_memory(processes: int) -> int:
    """Bytes of pictures under way in one of so many processes of a machine."""
    return usable_memory() // SHARE // processes


def telling(told: Callable[[int, int], None]) -> Callable[[Progress], None]:
    """A builder's progress, told as what is new of it: inputs and rejects."""
    last = Progress("build", 0, None)

    def progress(state: Progress) -> None:
        nonlocal last
        told(1, state.rejects - last.rejects)
        last = state

    return progress
