"""Shard jobs in this process: one after another, in threads that go on from one shard to the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from itertools import chain
from typing import Any, Protocol, TypeVar

from condprep.dataset.shards import Counts
from condprep.engines.commits import Commits
from condprep.errors import PassingFault, ShardFault
from condprep.runtime.opencv import one_thread_each
from condprep.runtime.threads import Ahead

T = TypeVar("T")
IN_A_ROW = 3  # shards that are given up before the run is


class Threads:
    """What a builder may use of this process. They end with the block: what has not begun by then is not done any more."""

    def __init__(self, workers: int) -> None:
        self.workers, self.cpu = workers, ThreadPoolExecutor(workers, "condprep-worker")
        self._stages: list[Ahead[Any]] = []
        self._ending, self._settings = ExitStack(), ExitStack()

    def ahead(self, name: str, items: Iterable[T], most: int = 1 << 30) -> Iterator[T]:
        """The items of a stage, taken in a thread of its own, at most `most` of them ahead of who asks for them."""
        stage = Ahead(items, f"condprep-{name}", most)
        self._stages.append(stage)
        return stage

    def at_end(self, call: Callable[[], object]) -> None:
        """To be called first of all when the block ends, to wake a stage that waits for something."""
        self._ending.callback(call)

    def within(self, setting: AbstractContextManager[object]) -> None:
        """A setting of the process, until the block ends."""
        self._settings.enter_context(setting)

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()
        for stage in self._stages:
            stage.stop()
        self.cpu.shutdown(cancel_futures=True)
        for stage in self._stages:
            stage.join()
        self._settings.close()


class Builder(Protocol[T]):
    """Builds shards of a plan. Building one twice changes nothing."""

    def outcomes(self, shards: Iterable[int], threads: Threads) -> Iterator[T]:
        """What becomes of the inputs of these shards, in the order of the plan, which the threads make meanwhile."""
        ...

    def build_shard(self, shard: int, outcomes: Iterator[T]) -> Counts:
        """Write a shard of what comes first of `outcomes`. Raises ShardFault where it is given up."""
        ...

    @property
    def sends(self) -> bool:
        """Whether to commit a shard takes long: it is done beside the building of the next ones then."""
        ...

    def commit(self, shard: int) -> None:
        """Of a shard that was written."""
        ...


class GivenUp:
    """Shards that were given up. A few are borne, and said at the end; some in a row end the run at once."""

    def __init__(self) -> None:
        self.first: tuple[int, ShardFault] | None = None
        self.count = self.in_a_row = 0

    def add(self, shard: int, fault: ShardFault) -> bool:
        """Whether that was one too many."""
        self.first = self.first or (shard, fault)
        self.count, self.in_a_row = self.count + 1, self.in_a_row + 1
        return self.in_a_row == IN_A_ROW

    def check(self) -> None:
        """Raises PassingFault where there were some."""
        if self.first:
            number, why = self.first
            raise PassingFault(f"{self.count} shards were given up, the first is number {number}: {why}")


def build_shards(
    builder: Builder[T],
    shards: Iterable[int],
    workers: int,
    done: Callable[[int, Counts], None] = lambda *_: None,
    given_up: GivenUp | None = None,
) -> Counts:
    """Build these shards in `workers` threads and those of the stages, write them in the caller's, and commit them.

    shards: taken by a stage, in its thread, as it has room for more. done: is told of each that is committed. given_up: of
    each that is not. What an exception interrupts is forgotten. Raises PassingFault at the end where shards were given up,
    and at once after IN_A_ROW of them: then what they miss is not there at all.
    """
    total, under_way, given_up = Counts(), deque[int](), given_up or GivenUp()

    def noted() -> Iterator[int]:
        for shard in shards:
            under_way.append(shard)
            yield shard

    def committed(shard: int, counts: Counts) -> None:
        total.merge(counts)
        done(shard, counts)

    with (
        one_thread_each(),
        Commits(builder.commit, committed, builder.sends) as commits,
        Threads(workers) as threads,
    ):
        outcomes = builder.outcomes(noted(), threads)
        for first in outcomes:  # of a shard; none is empty
            shard = under_way.popleft()
            try:
                counts = builder.build_shard(shard, chain([first], outcomes))
            except ShardFault as fault:
                if given_up.add(shard, fault):
                    break
                continue
            given_up.in_a_row = 0
            commits.add(shard, counts)
        commits.finish()
    given_up.check()
    return total
