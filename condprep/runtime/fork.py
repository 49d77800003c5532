"""What a forked child inherits and cannot use: threads that are gone, locks that these held, a GPU of its parent.

Pools of processes fork by default on Linux before Python 3.14: those of multiprocessing, of `datasets`, of a DataLoader.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from threading import RLock
from weakref import WeakSet

from condprep.errors import AnnotatorError


@cache
def keep_torch_usable() -> None:
    """Let children that are forked from now on compute in one thread, as the workers of a DataLoader do.

    OpenMP's threads do not survive a fork, and a child whose parent had computed with several would wait for them for
    ever. To be called before networks are loaded, and before what loads them is handed to others.
    """
    _in_children(_one_thread)


def check_cuda() -> None:
    """Raises AnnotatorError in a child that was forked after its parent had begun to use a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda._is_in_bad_fork() or not torch.cuda.device_count():
        return
    raise AnnotatorError(
        "this process was forked from one that had used CUDA, and cannot use it: start processes by spawn "
        "(multiprocessing.set_start_method('spawn'), for datasets multiprocess.set_start_method('spawn'), "
        "DataLoader(..., multiprocessing_context='spawn')), or let nothing use CUDA before the fork, not even "
        "torch.cuda.is_available()"
    )


class Lock:
    """A lock that is free in a forked child, whichever of its parent's threads held it. Its holder may take it again."""

    def __init__(self) -> None:
        self._lock = RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        self._lock = RLock()


_locks: WeakSet[Lock] = WeakSet()


def _free_locks() -> None:
    for lock in _locks:
        lock.renew()


def _one_thread() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _in_children(function: Callable[[], None]) -> None:
    if hasattr(os, "register_at_fork"):  # Windows does not fork
        os.register_at_fork(after_in_child=function)


_in_children(_free_locks)
