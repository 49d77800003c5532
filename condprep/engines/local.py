"""Shard jobs in this process: one after another, in threads that go on from one shard to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from condprep.dataset.shards import Counts
from condprep.runtime.opencv import one_thread_each

T = TypeVar("T")


@dataclass(frozen=True)
class Threads:
    """What a builder may use of this process."""

    workers: int
    cpu: Executor  # `workers` threads for what is done picture by picture
    device: Executor  # one thread, so that batches never queue against each other on the device


class Builder(Protocol[T]):
    """Builds shards of a plan. Building one twice changes nothing."""

    def outcomes(self, shards: Sequence[int], threads: Threads) -> Iterator[T]:
        """What becomes of the inputs of these shards, in the order of the plan, on its way through the threads."""
        ...

    def build_shard(self, shard: int, outcomes: Iterator[T]) -> Counts:
        """Write and commit a shard of what comes first of `outcomes`."""
        ...


def build_shards(builder: Builder[T], shards: Sequence[int], workers: int) -> Counts:
    """Build these shards in `workers` threads and one for the device. What an exception interrupts is forgotten."""
    total = Counts()
    with one_thread_each(), open_threads(workers) as threads:
        outcomes = builder.outcomes(shards, threads)
        for shard in shards:
            total.merge(builder.build_shard(shard, outcomes))
    return total


@contextmanager
def open_threads(workers: int) -> Iterator[Threads]:
    """Threads that end with the block: what they have not begun is not done any more."""
    cpu, device = ThreadPoolExecutor(workers, "condprep-worker"), ThreadPoolExecutor(1, "condprep-device")
    try:
        yield Threads(workers, cpu, device)
    finally:
        cpu.shutdown(cancel_futures=True)
        device.shutdown(cancel_futures=True)
