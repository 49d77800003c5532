"""A stage runs ahead of who asks for its items, in a thread of its own, and ends with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from condprep.runtime.threads import Ahead


def test_a_stage_runs_ahead_and_no_further_than_it_may() -> None:
    """Items come in their order; before anybody asks for one, `most` are there and the next one is in its hands."""
    taken, enough = [], threading.Event()

    def items() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            if number == 2:
                enough.set()
            yield number

    stage = Ahead(items(), "stage", most=2)
    assert enough.wait(600)
    assert taken == [0, 1, 2]
    assert list(stage) == [0, 1, 2, 3, 4]
    stage.join()


def test_what_a_stage_raises_comes_after_what_it_made() -> None:
    """An error ends the items, and is raised where they are asked for, as often as they are."""

    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    stage = Ahead(items(), "stage")
    assert next(stage) == 1
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            next(stage)
    stage.join()


def test_a_stage_that_waits_for_its_consumer_can_be_stopped() -> None:
    """Its thread ends although nobody asks any more, and who asks is told that there is nothing more."""
    stage = Ahead(iter(range(1_000_000)), "stage", most=1)
    stage.stop()
    stage.join()
    assert len(list(stage)) <= 2
