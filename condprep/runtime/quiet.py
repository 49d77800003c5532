"""Pillow and libtiff complain on stderr about pictures; a build says it in the reject's reason, and only there."""

from __future__ import annotations

import ctypes
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import _imaging

from condprep.runtime.process import shared

# without any handler, Python prints to stderr the errors that Pillow logs
logging.getLogger("PIL").addHandler(logging.NullHandler())


@shared
@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow in all threads; afterwards the host program's settings are back.

    `warnings.catch_warnings` cannot do this: threads that overlap would restore each other's filters for good.
    """
    with _ignored_warnings(), _silent_libtiff():
        yield


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
