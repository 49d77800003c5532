"""How the C library treats memory that was freed."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MMAP_THRESHOLD = 32 << 20  # bytes; the most that glibc accepts
TRIM_THRESHOLD = 1 << 30


def keep_freed_memory() -> None:
    """Let the process keep what it frees, for its next picture. Does nothing where the C library is not glibc.

    By default glibc hands a picture's few megabytes back to the kernel, which clears them anew, page by page, for the next
    one: a sixth of a canny build's time, and training on a CPU waits for it, too. For commands, which own their process;
    not for a library in somebody else's.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)


def give_back_freed_memory() -> None:
    """Hand to the kernel what was freed and kept, in every thread's part: a few milliseconds. Does nothing without glibc."""
    if sys.platform != "linux":
        return
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
