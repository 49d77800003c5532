"""What a process has once, however often it is described to it: networks that are unpickled again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from condprep.runtime.fork import Lock

T = TypeVar("T")


class OncePerProcess(Generic[T]):
    """Things by their descriptions, texts that are equal where the things are. Thread-safe; a forked child has them, too."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._here: WeakValueDictionary[str, T] = WeakValueDictionary()  # what was made anyhow: as long as it is used
        self._kept: dict[str, T] = {}  # what was unpickled: who does it once does so for every task

    def remember(self, description: str, thing: T) -> None:
        self._here[description] = thing

    def get(self, description: str, make: Callable[[], T], *, keep: bool = True) -> T:
        """The one that is here, else a new one. keep: for as long as the process lives."""
        with self.lock:
            thing = self._kept.get(description) or self._here.get(description) or make()
            self._here[description] = thing
            return self._kept.setdefault(description, thing) if keep else thing
