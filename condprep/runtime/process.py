"""Settings of the whole process that several threads want at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps

from condprep.runtime.fork import Lock

Setting = Callable[[], AbstractContextManager[None]]


def shared(setting: Setting) -> Setting:
    """The same context manager, in force from the entry of its first user to the exit of its last, in whatever threads.

    Users that overlap and each put back what they found would leave the setting of another behind.
    """
    lock, users, settings = Lock(), 0, ExitStack()

    @wraps(setting)
    @contextmanager
    def use() -> Iterator[None]:
        nonlocal users
        with lock:
            users += 1
            if users == 1:
                settings.enter_context(setting())
        try:
            yield
        finally:
            with lock:
                users -= 1
                if not users:
                    settings.close()

    return use
