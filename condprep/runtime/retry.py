"""Faults that pass: storage that hangs, memory that is short for a moment. What meets one is tried again, after longer and
longer pauses; an input's own fault, which is the same tomorrow, never is.
"""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from condprep.errors import CondprepError, PassingFault

R = TypeVar("R")

ATTEMPTS = 6  # the first one, one at once, and one after each pause
PAUSE, GROWTH = 0.5, 4.0  # seconds before the third attempt, and how many times longer each further pause is

MOST = 1 << 40  # bytes that a file can ask for at once

# What the operating system says of one file or name: whoever asks again hears the same. Everything else that it says is
# about the machine or the storage, and may pass.
_OWN = """ENOENT ENOTDIR EISDIR EACCES EPERM ELOOP ENAMETOOLONG EILSEQ EINVAL ENXIO ENODEV EFBIG EOVERFLOW EOPNOTSUPP
          ENOSPC EDQUOT EROFS EEXIST ENOTEMPTY"""
OWN = frozenset(getattr(errno, name) for name in _OWN.split() if hasattr(errno, name))
# How libraries word it that memory could not be had: Pillow and libjpeg, OpenCV, torch.
_NO_MEMORY = (
    *("memory error", "insufficient memory", "memory allocation fail", "can't allocate memory", "out of memory"),
    "status_alloc_failed",
)


def is_passing(error: BaseException) -> bool:
    """Whether it may be gone when it is tried again."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in OWN
    return isinstance(error, PassingFault | ConnectionError | TimeoutError) or lacks_memory(error)


def lacks_memory(error: BaseException) -> bool:
    """Whether this process could not have the memory that it asked for."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    if isinstance(error, CondprepError) or _wants_the_impossible(error):
        return False
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


def _wants_the_impossible(error: BaseException) -> bool:
    """Whether a damaged file asks, through Arrow, for more than any machine has."""
    asked = re.search(r"alloc of size (\d+) failed", str(error))
    return asked is not None and int(asked[1]) > MOST


def pause(seconds: float) -> None:
    time.sleep(seconds)


def retried(function: Callable[[], R], what: str = "", *, sleep: Callable[[float], None] = pause) -> R:
    """What the function returns; where it meets a fault that may pass, it is called again.

    what: names it in the message. sleep: may end a pause early, where the run is being stopped. Raises PassingFault when
    no attempt goes through, and any other error as it is.
    """
    before: Callable[[float], None] | None = getattr(_pauses, "sleep", None)
    _pauses.sleep = before or sleep
    try:
        return _tried(function, what, _pauses.sleep)
    finally:
        _pauses.sleep = before


class _GivenUp(PassingFault):
    """What was tried often enough: whoever is trying more than that does not begin anew."""


_pauses = threading.local()  # how the outermost of functions in each other that are being tried sleeps


def _tried(function: Callable[[], R], what: str, sleep: Callable[[float], None]) -> R:
    try:
        return function()
    except Exception as error:
        if not _may_pass(error):
            raise
    from tenacity import Retrying, retry_if_exception, stop_after_attempt

    attempts = Retrying(
        stop=stop_after_attempt(ATTEMPTS - 1),
        wait=lambda state: PAUSE * GROWTH ** (state.attempt_number - 1),
        retry=retry_if_exception(_may_pass),
        sleep=sleep,
        reraise=True,
    )
    try:
        return attempts(function)
    except Exception as error:
        if _may_pass(error):
            raise _GivenUp(str(as_fault(error, what))) from error
        raise


def _may_pass(error: BaseException) -> bool:
    return is_passing(error) and not isinstance(error, _GivenUp)


def as_fault(error: BaseException, what: str = "") -> PassingFault:
    """The fault in words, with what was tried and the remedy."""
    if isinstance(error, PassingFault):
        return error
    named = f"{what}: " if what else ""
    if lacks_memory(error):
        return PassingFault(f"{named}there is not enough memory; make room, or use fewer --workers. {GOES_ON}")
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return PassingFault(f"{named}{said}, after {ATTEMPTS} attempts. {GOES_ON}")


GOES_ON = "Nothing is lost: the same command goes on from here"
