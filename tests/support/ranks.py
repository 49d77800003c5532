"""Processes of one run, forked from one that has imported everything: what `accelerate launch` starts, without its seconds."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def on_ranks(count: int, work: Callable[[int], None], folder: Path) -> list[int]:
    """Carry `work` out on so many processes, which are told their number. Returns their exit codes; folder: for what they say.

    To be called where no thread computes, as forked ones would wait for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [os.fork() or _rank(number, count, port, work, folder) for number in range(count)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _rank(number: int, count: int, port: int, work: Callable[[int], None], folder: Path) -> NoReturn:
    os.environ |= {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    said = (folder / f"rank{number}.txt").open("w", buffering=1)
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    sys.stdout = sys.stderr = said
    code = 0
    try:
        work(number)
    except BaseException:
        traceback.print_exc()
        code = 1
    said.flush()
    os._exit(code)
