"""A process that is stopped before every file operation of a command, one after another, and runs the command again.

    PYTHONPATH=tests python -m support.crash_scenarios FOLDER STRIDE SEED SCENARIO...

An operation is whatever changes a file or its names below the scenario's folder: opening to write, fsync, rename, link,
unlink, mkdir, rmdir. Each is met in a process of its own, and what it leaves is gone on with in two ways: killed, where all
that was written stays, and without power, where files that were not fsynced lose their second half, or everything. Where
there are none, both leave the same bytes, and one of them stands for both. Before an operation is after the one before it.
The process is forked from this one, so that imports are paid once. STRIDE: every so many operations, from a random one on.
Prints as JSON, for each scenario, how many operations there are, how many were met, and what went wrong.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

Act = Callable[[], object]
State = tuple[int, int, int]  # of a file's content: inode, size, time of its last change

DEAF = "\0"  # no path begins so
# How long something took, and the size and hash of the file of a checkpoint that says so
TIMES = re.compile(rb'"(seconds|pictures_per_second|data_wait)": [0-9.e-]+|"training.json": \[[^]]*\]')
HANGS = 1800  # seconds: longer than anything that works takes on a machine that is busy elsewhere
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS = {  # of Python's audit hooks -> where the folder descriptor stands that the path is relative to
    **{"open": None, "os.truncate": None, "os.symlink": None, "os.link": 2},
    **{"os.rename": 2, "os.mkdir": 2, "os.remove": 1, "os.rmdir": 1},
}


@dataclass(frozen=True)
class Scenario:
    """A command in a folder: what lies there before, made once, and the command, which works in the current folder."""

    prepare: Act
    act: Act


@dataclass
class Outcome:
    """What became of a scenario."""

    operations: int = 0
    points: int = 0  # that were met
    failures: list[str] = field(default_factory=list)


class Watch:
    """Counts the operations in a folder, and ends the process before the `die`-th one."""

    def __init__(self, folder: Path, die: int, said: Path) -> None:
        """die: 0 for never. said: beside it, when the process ends, lies which files no fsync has put on the disk."""
        self.folder, self.die, self.said = str(folder), die, said
        self.count, self.lock = 0, threading.Lock()
        self.safe = {state for _, state in _files(folder)}
        os.fsync = self._fsync
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and (event != "open" or arguments[2] & WRITES):
            at = EVENTS[event]
            descriptor = -1 if at is None else arguments[at]
            if isinstance(arguments[0], str | bytes | os.PathLike):
                parent = os.readlink(f"/proc/self/fd/{descriptor}") if descriptor >= 0 else os.getcwd()
                self._met(by_name(os.path.join(parent, os.fsdecode(arguments[0]))), event)

    def _fsync(self, descriptor: int) -> None:
        """Only noted: waiting for the disk would take most of the time."""
        self._met(os.path.realpath(f"/proc/self/fd/{descriptor}"), "fsync")
        with self.lock:
            self.safe.add(_state(os.fstat(descriptor)))

    def _met(self, path: str, event: str) -> None:
        if not path.startswith(self.folder):
            return
        with self.lock:
            self.count += 1
            self.happens(path, event)

    def happens(self, path: str, event: str) -> None:
        """What becomes of the operation that has just been counted."""
        if self.count == self.die:
            print(f"{event} {path.removeprefix(self.folder)}", flush=True)
            unsafe = [str(path) for path, state in _files(Path(self.folder)) if state not in self.safe]
            self.said.with_suffix(".unsafe").write_text(json.dumps(unsafe))
            os.kill(os.getpid(), signal.SIGKILL)


def by_name(path: str) -> str:
    """The name of what is reached through an open file or folder."""
    return os.path.realpath(path) if path.startswith("/proc/self/fd/") else path


def _files(folder: Path) -> Iterator[tuple[Path, State]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path, _state(path.stat())


def _state(found: os.stat_result) -> State:
    return found.st_ino, found.st_size, found.st_mtime_ns


def in_child(folder: Path, act: Act, die: int, said: Path) -> int:
    """Run the act in the folder in a process of its own; its status. What it says goes into a file."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(folder)
        signal.alarm(HANGS)
        watch = Watch(folder, die, said)
        act()
        watch.folder = DEAF
        said.with_suffix(".count").write_text(json.dumps([watch.count, sorted(sys.modules)]))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


def crash(scenario: Scenario, folder: Path, stride: int, seed: int) -> Outcome:
    """Stop the act before every `stride`-th operation; run it again; compare with one that was never stopped."""
    before, work, dark, whole, said = (folder / name for name in ("before", "work", "dark", "whole", "said"))
    before.mkdir(parents=True)
    if status := in_child(before, scenario.prepare, 0, said):
        raise RuntimeError(f"cannot be prepared: {status}: {said.read_text()}")
    shutil.copytree(before, whole, symlinks=True)
    if status := in_child(whole, scenario.act, 0, said):
        raise RuntimeError(f"does not end even when left alone: {status}: {said.read_text()}")
    outcome, expected = Outcome(counted(said)), names(whole)
    for point in range(1 + random.Random(seed).randrange(stride), outcome.operations + 1, stride):
        shutil.copytree(before, work, symlinks=True)
        status = in_child(work, scenario.act, point, said)
        where = f"before operation {point}, {said.read_text().strip()}"
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            outcome.failures.append(f"{where}: was not stopped, but ended with {status}")
            shutil.rmtree(work)
            continue
        outcome.points += 2
        unsafe = json.loads(said.with_suffix(".unsafe").read_text())
        if unsafe:
            shutil.copytree(work, dark, symlinks=True)
        outcome.failures += [f"killed {where}: {wrong}" for wrong in gone_on(scenario, work, expected, said)]
        if unsafe:
            dark.rename(work)
            lose(map(Path, unsafe), whole=point % 2 == 0)
            outcome.failures += [f"dark {where}: {wrong}" for wrong in gone_on(scenario, work, expected, said)]
    return outcome


def lose(files: Iterable[Path], whole: bool) -> None:
    """What was not put on the disk is not there: nothing of it, or not its second half."""
    for path in files:
        os.truncate(path, 0 if whole else path.stat().st_size // 2)


def gone_on(scenario: Scenario, work: Path, expected: Mapping[str, object], said: Path) -> Iterator[str]:
    """Run the act again where it was stopped; what is wrong with how that ends. The folder is gone then."""
    if in_child(work, scenario.act, 0, said):
        yield said.read_text().strip()[-2000:]
    elif difference := differing(expected, names(work)):
        yield difference
    shutil.rmtree(work)


def counted(said: Path) -> int:
    """How many operations a process met; what it imported is imported here, once, for all processes that follow."""
    operations, modules = json.loads(said.with_suffix(".count").read_text())
    for module in modules:
        with suppress(ImportError):  # some are made while others are imported, and have no file
            import_module(module)
    return int(operations)


def names(folder: Path) -> dict[str, bytes | None]:
    """Every file with its content, and every folder, but for locks and how long something took."""
    return {
        path.relative_to(folder).as_posix(): TIMES.sub(b"", path.read_bytes()) if path.is_file() else None
        for path in folder.rglob("*")
        if not path.name.endswith("lock")
    }


def differing(expected: Mapping[str, object], found: Mapping[str, object]) -> str:
    """In words; "" where nothing differs."""
    kinds = {
        "missing": expected.keys() - found.keys(),
        "left behind": found.keys() - expected.keys(),
        "different": {name for name in expected.keys() & found.keys() if expected[name] != found[name]},
    }
    return "; ".join(f"{kind}: {', '.join(sorted(some)[:5])}" for kind, some in kinds.items() if some)
