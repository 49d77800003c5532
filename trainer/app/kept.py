"""What the page has in memory, and nowhere else: the newest photographs and generations, each with its pictures as PNG."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Event
from typing import Generic, Literal, TypeVar

from condprep.annotation.rows import png
from trainer.app.conditions import Pair
from trainer.app.drawing import Arm, Asked

T = TypeVar("T")
KEPT = 32  # photographs, and as many generations

State = Literal["waiting", "running", "done", "cancelled", "failed"]


class Kept(Generic[T]):
    """The newest of a kind, by names that nobody can guess."""

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._held: OrderedDict[str, T] = OrderedDict()

    def add(self, one: T) -> str:
        """Its name."""
        name = secrets.token_urlsafe(9)
        self._held[name] = one
        if len(self._held) > self._most:
            self._held.popitem(last=False)
        return name

    def get(self, name: str) -> T | None:
        return self._held.get(name)

    def values(self) -> Iterable[T]:
        return self._held.values()


@dataclass(frozen=True)
class Photograph:
    """A pair that was made."""

    pair: Pair
    pictures: dict[str, bytes]  # "photograph", where there is one, and "condition"

    @classmethod
    def of(cls, pair: Pair) -> Photograph:
        shown = {"photograph": pair.photograph, "condition": pair.condition}
        return cls(pair, {name: png(picture) for name, picture in shown.items() if picture})


@dataclass(eq=False)
class Generation:
    """One that was asked for, and how far it is. The thread that draws writes, others read."""

    photograph: Photograph
    asked: Asked
    state: State = "waiting"
    step: int = 0
    steps: int = 0  # of both pictures; 0: not known yet
    problem: str = ""
    pictures: dict[Arm, bytes] = field(default_factory=dict)  # as they come
    cancelled: Event = field(default_factory=Event)
