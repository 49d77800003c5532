"""Pillow and libtiff complain on stderr about pictures; a build says it in the reject's reason, and only there."""

from __future__ import annotations

import ctypes
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from PIL import _imaging

# without any handler, Python prints to stderr the errors that Pillow logs
logging.getLogger("PIL").addHandler(logging.NullHandler())

_lock = threading.Lock()
_users = 0
_settings = ExitStack()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow in all threads until the last user leaves; then the host program's settings are back.

    `warnings.catch_warnings` cannot do this: threads that overlap would restore each other's filters for good.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _settings.enter_context(_ignored_warnings())
            _settings.enter_context(_silent_libtiff())
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _settings.close()


@contextmanager
def _ignored_warnings() -> Iterator[None]:
    warnings.filterwarnings("ignore", module=r"PIL\.")
    ours = warnings.filters[0]
    yield
    with suppress(ValueError):  # the host reset its filters meanwhile
        warnings.filters.remove(ours)  # type: ignore[attr-defined]


@contextmanager
def _silent_libtiff() -> Iterator[None]:
    """Take the error handler out of the libtiff that Pillow was linked with, where its symbol can be reached."""
    try:
        handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError):
        yield
        return
    handler.restype, handler.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before = handler(None)
    yield
    handler(before)
