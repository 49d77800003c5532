"""Shards that were written, on their way to where they belong while the next ones are built."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from condprep.dataset.shards import Counts

AT_ONCE = 2  # shards that are sent side by side
MOST = 1_000_000_000  # bytes of pictures in shards that were written and have not arrived; a larger one goes alone


class Commits:
    """Commits shards: at once where nothing is sent, else in threads of their own, of which the writer is not one.

    At the end of the block nothing is under way any more. After a fault, or Ctrl-C, what has begun is ended, and nothing else begins.
    """

    def __init__(self, commit: Callable[[int], None], done: Callable[[int, Counts], None], sends: bool) -> None:
        """done: is told, in the caller's thread, of each that is committed."""
        self._commit, self._done = commit, done
        self._pool = ThreadPoolExecutor(AT_ONCE, "condprep-send") if sends else None
        self._under_way: deque[tuple[int, Counts, Future[None]]] = deque()

    def __enter__(self) -> Commits:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def add(self, shard: int, counts: Counts) -> None:
        """Of a shard that was written. Raises what went wrong with an earlier one."""
        if not self._pool:
            self._commit(shard)
            self._done(shard, counts)
            return
        while self._under_way and (self._under_way[0][2].done() or self._is_full(counts)):
            self._end_first()
        self._under_way.append((shard, counts, self._pool.submit(self._commit, shard)))

    def finish(self) -> None:
        """Wait for all of them."""
        while self._under_way:
            self._end_first()

    def _is_full(self, counts: Counts) -> bool:
        unsent = counts.bytes + sum(one.bytes for _, one, _ in self._under_way)
        return len(self._under_way) >= AT_ONCE or unsent > MOST

    def _end_first(self) -> None:
        shard, counts, sent = self._under_way.popleft()
        sent.result()
        self._done(shard, counts)
