"""Who runs the shard jobs of a build, as the user named it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from condprep.dataset.shards import Counts
from condprep.engines import local, processes
from condprep.errors import UsageError

ENGINES = ("local", "ray")


class Builder(local.Builder[Any], Protocol):
    """A builder whose place others may take."""

    def hand_over(self) -> None:
        """Give up what it holds: others open builders of their own."""
        ...

    def tell(self, done: int, rejects: int) -> None:
        """How many inputs others have done, and how many of them are rejects."""
        ...


class Cluster(Protocol):
    """Machines that build for this one."""

    def build_shards(self, shards: Sequence[int], progress: Callable[[int, int], None]) -> Counts: ...


def check_engine(
    engine: str,
    *,
    devices: object = None,
    part: object = None,
    append: bool = False,
    address: str | None = None,
    actors: int | None = None,
) -> None:
    """Raises UsageError for an engine that there is not, and for options of another one."""
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine} is none of {', '.join(ENGINES)}")
    if engine == "ray" and devices is not None:
        raise UsageError(
            "--devices are those of one machine; with --engine ray each actor has a GPU, where there are some"
        )
    if engine == "ray" and part is not None:
        raise UsageError("--part is for processes that know nothing of each other; --engine ray hands out all shards")
    if engine == "ray" and append:
        raise UsageError("--append builds on this machine; leave out --engine ray")
    for option, value in {"--address": address, "--actors": actors}.items():
        if value is not None and engine != "ray":
            raise UsageError(f"{option} {value} is for --engine ray")
    if actors is not None and actors < 1:
        raise UsageError(f"--actors {actors}: there must be one at least")


def engine_for(
    builder: Builder, job: processes.Job, devices: Sequence[str], workers: int, cluster: Cluster | None
) -> Callable[[Sequence[int]], Counts]:
    """What is called with the shards and builds them.

    job: opens in another process what `builder` is here. devices: each gets a process, if there are any. workers: threads
    on this machine. It is a choice and no call: nothing of ours is between a build and its engine.
    """
    if cluster:
        builder.hand_over()
        return partial(cluster.build_shards, progress=builder.tell)
    if devices:
        builder.hand_over()
        return partial(processes.build_shards, job, devices=devices, workers=workers, progress=builder.tell)
    return partial(local.build_shards, builder, workers=workers)
