"""Ctrl-C, and the SIGTERM of a cluster's preemption, end a command cleanly: as an exception that nothing takes for its own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from condprep.errors import CondprepError


class Stopped(BaseException):
    """The command was asked to stop. Its argument: what is kept, where that is known."""


def heed_signals() -> None:
    """From here on both raise Stopped, in the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(*_: object) -> None:
    raise Stopped


@contextmanager
def telling(kept: Callable[[], str | None]) -> Iterator[None]:
    """Where the block is stopped, it is said what is kept of it: in words, or None where nothing is."""
    try:
        yield
    except Stopped:
        try:
            said = kept()
        except CondprepError:  # it had not begun
            said = None
        raise Stopped(*filter(None, [said])) from None
