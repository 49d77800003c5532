"""Who runs the shard jobs of a build, as the user named it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from condprep.dataset.shards import Counts
from condprep.engines import local, processes
from condprep.errors import UsageError

ENGINES = ("local",)


class Builder(local.Builder[Any], Protocol):
    """A builder whose place others may take."""

    def hand_over(self) -> None:
        """Give up what it holds: others open builders of their own."""
        ...

    def tell(self, done: int, rejects: int) -> None:
        """How many inputs others have done, and how many of them are rejects."""
        ...


def check_engine(engine: str) -> str:
    """Raises UsageError for an engine that there is not."""
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine} is none of {', '.join(ENGINES)}")
    return engine


def engine_for(engine: str, builder: Builder, job: processes.Job, devices: Sequence[str]) -> Callable[..., Counts]:
    """What is called with the shards, and with the threads that it may use as `workers`, and builds them.

    job: opens in another process what `builder` is here. devices: each gets a process, if there are any. It is a choice
    and no call: nothing of ours is between a build and its engine.
    """
    if devices:
        builder.hand_over()
        return partial(processes.build_shards, job, devices=devices, progress=builder.tell)
    return partial(local.build_shards, builder)
