"""What a piece of code asks of the operating system: files it opens, programs it starts, hosts it looks for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

EVENTS = ("open", "subprocess.Popen", "os.system", "os.posix_spawn", "socket.getaddrinfo", "socket.connect")

_witnesses: list[list[tuple[str, str]]] = []
_hooked = False


@contextmanager
def witness() -> Iterator[list[tuple[str, str]]]:
    """Fills the list with (event, first argument) of all threads while the block runs."""
    global _hooked
    if not _hooked:  # a hook stays for as long as the process lives
        sys.addaudithook(_note)
        _hooked = True
    seen: list[tuple[str, str]] = []
    _witnesses.append(seen)
    try:
        yield seen
    finally:
        _witnesses.remove(seen)


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _witnesses and event in EVENTS and arguments:
        for seen in _witnesses:
            seen.append((event, str(arguments[0])))


def started(seen: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The programs that were started and the hosts that were asked for."""
    return [one for one in seen if one[0] != "open"]


def opened(seen: list[tuple[str, str]], path: str) -> bool:
    return ("open", path) in seen
