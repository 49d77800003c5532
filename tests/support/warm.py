"""Commands in processes of their own that need not import what the tests have imported: for most, that is what takes long.

They are forked from a process that was forked from this one after it had collected the tests and before it ran any, so
that nothing of a test, no thread, no lock and no setting, is in them.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn


class Warm:
    """The process that commands are forked from; it ends with this one."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # from Python 3.12 on: xdist has a thread, which only waits
            self._pid = os.fork()
        if not self._pid:
            self._socket.close()
            _serve(theirs)
        theirs.close()
        self._answers = self._socket.makefile()

    def close(self) -> None:
        self._answers.close()
        self._socket.close()
        os.waitpid(self._pid, 0)

    def ask(self, **request: Any) -> Any:
        """What it answers."""
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(self._answers.readline())

    def start(self, folder: Path, module: str, *arguments: object) -> Started:
        """`python -m MODULE ARGUMENTS`. folder: for what it says."""
        words = [module, *map(str, arguments)]
        return Started(self, self.ask(do="start", folder=str(folder), words=words), folder)

    def run(self, folder: Path, module: str, *arguments: object) -> tuple[int, str, str]:
        """The same until its end: exit code, standard output and standard error."""
        started = self.start(folder, module, *arguments)
        return started.wait(), started.said("out"), started.said("err")


@dataclass
class Started:
    """A command that is being carried out."""

    warm: Warm
    pid: int
    folder: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, below zero the signal that has killed it; None while it runs."""
        if self.code is None:
            self.code = self.warm.ask(do="wait", pid=self.pid, options=os.WNOHANG)
        return self.code

    def wait(self) -> int:
        if self.code is None:
            self.code = self.warm.ask(do="wait", pid=self.pid, options=0)
        return self.code

    def said(self, where: str) -> str:
        """where: "out" or "err"."""
        return (self.folder / f"said.{where}").read_text()


def _serve(asked: socket.socket) -> NoReturn:
    try:
        for line in asked.makefile():
            request = json.loads(line)
            if request["do"] == "start":
                answer: int | None = _start(asked, Path(request["folder"]), request["words"])
            else:
                found, status = os.waitpid(request["pid"], request["options"])
                answer = os.waitstatus_to_exitcode(status) if found else None
            asked.sendall(json.dumps(answer).encode() + b"\n")
    finally:
        os._exit(0)  # and leaves what belongs to the tests alone


def _start(asked: socket.socket, folder: Path, words: list[str]) -> int:
    if child := os.fork():
        return child
    asked.close()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"said.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    warnings.resetwarnings()
    warnings.simplefilter("ignore", DeprecationWarning)
    os._exit(_run(words))


def _run(words: list[str]) -> int:
    """The exit code."""
    sys.argv, code = words, 0
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code
