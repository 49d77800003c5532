"""OpenCV's own threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from condprep.runtime.process import shared


@shared
@contextmanager
def one_thread_each() -> Iterator[None]:
    """OpenCV in one thread a call: the pictures that are under way are the parallelism.

    Otherwise every call wakes a pool of OpenCV's own, whose threads turn in circles between two calls and take the cores
    from the workers. The pool is the process's, so the host program's setting is put back.

    0 and not 1: for 1 OpenCV joins the threads of its pool, which in a forked child are gone: it hangs, or dies.
    """
    before = cv2.getNumThreads()
    if before == 1:
        yield
        return
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
