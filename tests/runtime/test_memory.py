"""Room for pictures: bytes, not pictures, are counted, and one that is larger than all of it still goes through, alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from condprep.runtime import memory
from condprep.runtime.memory import Room, usable_memory


def waits(room: Room, size: int, until: Callable[[], None]) -> bool:
    """Whether something of this size is let in no earlier than `until` has happened."""
    inside = threading.Event()
    thread = threading.Thread(target=lambda: (room.take(size), inside.set()))
    thread.start()
    early = inside.wait(0.05)
    until()
    thread.join(600)
    assert not thread.is_alive()
    return not early


def test_what_does_not_fit_waits_until_it_does() -> None:
    """Bytes of what is prepared and of what is held count together."""
    room = Room(total=100, held=60, tasks=9)
    room.take(50)
    assert waits(room, 51, lambda: room.keep(50, 10))
    assert waits(room, 40, lambda: room.keep(51, 20))


def test_what_is_larger_than_the_room_goes_alone() -> None:
    """It is let in when nothing else is prepared, and nothing beside it until it is done."""
    room = Room(total=100, held=60, tasks=9)
    room.take(1)
    assert waits(room, 1000, lambda: room.keep(1, 1))
    assert waits(room, 1, lambda: room.keep(1000, 1))


def test_what_is_held_keeps_others_out() -> None:
    """Beyond its limit nothing is let in, however small and however empty the room is beside, until some was written."""
    room = Room(total=1000, held=60, tasks=9)
    room.take(10)
    room.keep(10, 70)
    assert waits(room, 1, lambda: room.free(10))


def test_no_more_tasks_than_threads_can_do() -> None:
    """A task that no thread would take soon is not let in."""
    room = Room(total=1000, held=60, tasks=2)
    room.take(1)
    room.take(1)
    assert waits(room, 1, lambda: room.keep(1, 1))


def test_a_closed_room_keeps_nobody() -> None:
    """A build that ends wakes who waits."""
    room = Room(total=10, held=10, tasks=1)
    room.take(10)
    assert waits(room, 10, room.close)


@pytest.mark.parametrize(("said", "expected"), [("4096\n", 4096), ("max\n", None), (None, None)])
def test_a_container_has_less_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, expected: int | None
) -> None:
    """Its limit counts where it has one, else the machine's memory."""
    limit = tmp_path / "memory.max"
    if said:
        limit.write_text(said)
    monkeypatch.setattr(memory, "LIMITS", (str(limit),))
    assert usable_memory() == (expected or psutil.virtual_memory().total)
