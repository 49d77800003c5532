"""Pillow warns about what it can read anyway (a corrupt EXIF tag); a build that decides for itself keeps that quiet."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_FILTER = r"PIL\."
_lock = threading.Lock()
_users = 0
_installed: list[object] = []

# without any handler, Python prints the errors that Pillow logs to stderr
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignore warnings that come from Pillow's own modules, in all threads, until the last user leaves.

    `warnings.catch_warnings` cannot do this: two threads that overlap would restore each other's filters for good.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            warnings.filterwarnings("ignore", module=_FILTER)
            _installed[:] = warnings.filters[:1]


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if not _users:
            with suppress(ValueError):  # the host reset its filters meanwhile
                warnings.filters.remove(_installed.pop())  # type: ignore[attr-defined]
