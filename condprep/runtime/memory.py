"""How much memory there is, and how much of it pictures may take that are under way."""

from __future__ import annotations

from pathlib import Path
from threading import Condition

import psutil

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container: cgroup 2, 1


def usable_memory() -> int:
    """Bytes that this process may use, which in a container are fewer than the machine's."""
    found = [int(psutil.virtual_memory().total)]
    for path in map(Path, LIMITS):
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(found)


class Room:
    """Room for pictures: while they are prepared they take much; from then on, until they are written, they hold less."""

    def __init__(self, total: int, held: int, tasks: int) -> None:
        """total: bytes of all of them. held: bytes of those that are prepared, beyond which no further one is let in.
        tasks: so many at most are prepared at once, or wait for a thread that prepares them."""
        self._total, self._most, self._most_tasks = total, held, tasks
        self._taken = self._held = self._tasks = 0
        self._changed, self._closed = Condition(), False

    def take(self, size: int) -> None:
        """Wait for room to prepare something. What is larger than there is room for is prepared, too, but alone."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fits(size))
            self._taken, self._tasks = self._taken + size, self._tasks + 1

    def _fits(self, size: int) -> bool:
        if not self._tasks:
            return self._held <= self._most
        together = self._taken + self._held + size
        return self._tasks < self._most_tasks and self._held <= self._most and together <= self._total

    def keep(self, size: int, held: int) -> None:
        """What took `size` is prepared, and holds so much from now on."""
        with self._changed:
            self._taken, self._tasks, self._held = self._taken - size, self._tasks - 1, self._held + held
            self._changed.notify()

    def free(self, held: int) -> None:
        """So much is not held any more."""
        with self._changed:
            self._held -= held
            self._changed.notify()

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
