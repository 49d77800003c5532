"""The local engine: shards in order, threads that end, settings that are put back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import cv2
import pytest

from condprep.dataset.shards import Counts
from condprep.engines.local import Threads, build_shards


class Numbers:
    """Builds shards of one number each: the worker doubles it."""

    sends = False

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken
        self.asked: list[list[int]] = []
        self.built: list[tuple[int, int]] = []
        self.committed: list[int] = []

    def double(self, shard: int) -> int:
        return 2 * shard

    def outcomes(self, shards: Iterable[int], threads: Threads) -> Iterator[Future[int]]:
        self.asked.append(list(shards))
        yield from [threads.cpu.submit(self.double, shard) for shard in self.asked[-1]]

    def build_shard(self, shard: int, outcomes: Iterator[Future[int]]) -> Counts:
        if shard == self.broken:
            raise OSError("no space")
        self.built.append((shard, next(outcomes).result()))
        return Counts(rows=Counter(train=1))

    def commit(self, shard: int) -> None:
        self.committed.append(shard)


@pytest.mark.parametrize("workers", [1, 3])
def test_shards_are_built_in_the_order_that_was_asked_for(workers: int) -> None:
    """Their pictures are one stream, each shard takes its own from it, and the counts are summed."""
    numbers = Numbers()
    assert build_shards(numbers, [3, 1, 2], workers).rows == {"train": 3}
    assert numbers.asked == [[3, 1, 2]]
    assert numbers.built == [(3, 6), (1, 2), (2, 4)]


def test_what_fails_ends_the_threads() -> None:
    """The error comes out, the shards before it are built, and no thread of ours goes on."""
    numbers = Numbers(broken=1)
    with pytest.raises(OSError, match="no space"):
        build_shards(numbers, [0, 1, 2], 2)
    assert numbers.built == [(0, 0)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("condprep-")]


def test_opencv_keeps_to_one_thread_meanwhile() -> None:
    """OpenCV's own threads are off while shards are built, and as they were afterwards."""
    before, seen = cv2.getNumThreads(), []

    class Looking(Numbers):
        def double(self, shard: int) -> int:
            seen.append(cv2.getNumThreads())
            return 0

    build_shards(Looking(), [0], 1)
    assert seen == [1]
    assert cv2.getNumThreads() == before
