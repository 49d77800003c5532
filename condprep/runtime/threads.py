"""Stages of a pipeline: each takes its items in a thread of its own, ahead of the next one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """The items of an iterable, which a thread of its own takes ahead of who asks for them, in their order.

    most: so many items at most wait to be asked for. What the iterable raises is raised where it is asked for.
    """

    def __init__(self, items: Iterable[T], name: str, most: int = 1 << 30) -> None:
        self._items, self._slots, self._stopped = items, Semaphore(most), False
        self._ready: SimpleQueue[tuple[bool, Any]] = SimpleQueue()  # whether that is an item; else why there is none
        self._thread = Thread(target=self._run, name=name)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        there, item = self._ready.get()
        if not there:
            self._ready.put((False, item))  # for whoever asks again
            raise item
        self._slots.release()
        return item  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Take no further items; who waits for one is told that there is none."""
        self._stopped = True
        self._slots.release()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        end: BaseException = StopIteration()
        try:
            for item in self._items:
                self._slots.acquire()
                if self._stopped:
                    break
                self._ready.put((True, item))
                del item
        except BaseException as error:
            end = error
        self._ready.put((False, end))
