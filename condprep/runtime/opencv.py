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
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
