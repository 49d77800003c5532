"""Things that are made when they are asked for, of which those asked for last stay."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """By number; at most `most` of them stay. Many threads may ask: one thing is made at a time, and once."""

    def __init__(self, make: Callable[[int], T], most: int) -> None:
        self.most, self._make = most, make
        self._made: OrderedDict[int, T] = OrderedDict()
        self._looking, self._making = Lock(), Lock()

    def __getitem__(self, number: int) -> T:
        if (known := self._known(number)) is not None:
            return known
        with self._making:
            if (known := self._known(number)) is None:
                known = self._make(number)
                with self._looking:
                    self._made[number] = known
                    while len(self._made) > self.most:
                        self._made.popitem(last=False)
        return known

    def __len__(self) -> int:
        return len(self._made)

    def _known(self, number: int) -> T | None:
        with self._looking:
            if number in self._made:
                self._made.move_to_end(number)
            return self._made.get(number)
