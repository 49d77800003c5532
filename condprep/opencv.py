"""OpenCV's own threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

_lock = threading.Lock()
_users = 0
_before = 0


@contextmanager
def one_thread_each() -> Iterator[None]:
    """OpenCV in one thread a call until the last user leaves: the pictures that are under way are the parallelism.

    Otherwise every call wakes a pool of OpenCV's own, whose threads turn in circles between two calls and take the cores
    from the workers. The pool is the process's, so the host program's setting is put back.
    """
    global _users, _before
    with _lock:
        _users += 1
        if _users == 1:
            _before = cv2.getNumThreads()
            cv2.setNumThreads(1)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                cv2.setNumThreads(_before)
