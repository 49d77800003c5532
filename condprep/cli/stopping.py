"""Ctrl-C, and the SIGTERM of a cluster's preemption, end a command cleanly: as an exception that nothing takes for its own."""

from __future__ import annotations

import signal


class Stopped(BaseException):
    """The command was asked to stop. Its argument: what is kept, where that is known."""


def heed_signals() -> None:
    """From here on both raise Stopped, in the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(*_: object) -> None:
    raise Stopped
