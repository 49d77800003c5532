"""A command that could be stopped before every file operation, one after another, and is run again from there.

    PYTHONPATH=tests python -m support.operations FOLDER stopped:STRIDE:SEED:SCENARIO,SCENARIO

An operation is whatever changes a file or its names below the scenario's folder: opening to write, fsync, rename, link,
unlink, mkdir, rmdir. The process stops before each (SIGSTOP: all its threads), its folder is copied, and it goes on: the copy
is what SIGKILL would have left at that moment. What is left is gone on with in two ways: killed, where all that was written
stays, and without power, where files that were not fsynced lose their second half, or everything. Moments that leave the same
files with the same content stand for each other. Before an operation is after the one before it. Processes are forked from
this one, so that imports are paid once; each goes on from a few of the moments, one after another. STRIDE: every so many
operations, from a random one on.
Prints as JSON, for each scenario, how many operations there are, how many were met, and what went wrong.
"""

from __future__ import annotations

import gc
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
from functools import partial
from hashlib import sha256
from importlib import import_module
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

Act = Callable[[], object]
State = tuple[int, int, int]  # of a file's content: inode, size, time of its last change

DEAF = "\0"  # no path begins so
# How long something took, and the size and hash of the file of a checkpoint that says so
TIMES = re.compile(rb'"(seconds|pictures_per_second|data_wait)": [0-9.e-]+|"training.json": \[[^]]*\]')
HANGS = 1800  # seconds: longer than anything that works takes on a machine that is busy elsewhere
AT_ONCE = 16  # moments that a process goes on from: memory that it shares with this one is copied once for all of them
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
    """Counts the operations in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.count, self.lock = 0, threading.Lock()
        self.safe = {state for _, state in _files(folder)}
        self.synced = {str(path): state[:2] for path, state in _files(folder)}  # inode and size
        os.fsync = self._fsync
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and (event != "open" or arguments[2] & WRITES):
            at = EVENTS[event]
            if isinstance(arguments[0], str | bytes | os.PathLike):
                path = _whole(arguments[0], -1 if at is None else arguments[at])
                self._met(path, event)
                if event == "os.rename" and path in self.synced:
                    self.synced[_whole(*arguments[1::2])] = self.synced.pop(path)

    def _fsync(self, descriptor: int) -> None:
        """Only noted: waiting for the disk would take most of the time."""
        path = os.path.realpath(f"/proc/self/fd/{descriptor}")
        self._met(path, "fsync")
        with self.lock:
            state = _state(os.fstat(descriptor))
            self.safe.add(state)
            self.synced[path] = state[:2]

    def kept(self, path: Path, state: State) -> int:
        """Bytes of a file at its beginning that are on the disk, though it has grown since: another thread may be appending to it."""
        inode, size = self.synced.get(str(path), (0, 0))
        return size if inode == state[0] and size < state[1] else 0

    def _met(self, path: str, event: str) -> None:
        if not path.startswith(self.folder):
            return
        with self.lock:
            self.count += 1
            self.happens(path, event)

    def happens(self, path: str, event: str) -> None:
        """What becomes of the operation that has just been counted."""


class Unwatched(Watch):
    """Counts nothing, and waits for no disk."""

    def __init__(self, _: Path) -> None:
        self.folder, self.count = DEAF, 0
        os.fsync = os.fstat  # type: ignore[assignment]


class Stopping(Watch):
    """Stops the process before the `first`-th operation and before every `stride`-th one after it."""

    def __init__(self, folder: Path, first: int, stride: int, said: Path) -> None:
        """said: beside it, while the process stands still, lies where it does, and which files no fsync has put on the disk, but for
        so many bytes."""
        self.first, self.stride, self.said = first, stride, said
        super().__init__(folder)

    def happens(self, path: str, event: str) -> None:
        if self.count >= self.first and (self.count - self.first) % self.stride == 0:
            work = Path(self.folder)
            unsafe = [
                (str(path.relative_to(work)), self.kept(path, state))
                for path, state in _files(work)
                if state not in self.safe
            ]
            where = f"before operation {self.count}, {event} {path.removeprefix(self.folder)}"
            self.said.with_suffix(".moment").write_text(json.dumps([self.count, where, unsafe]))
            signal.pthread_kill(
                threading.get_ident(), signal.SIGSTOP
            )  # else this thread would go on until another hears it


def _whole(name: str | bytes | os.PathLike[str], descriptor: int) -> str:
    """The path of what is named below an open folder, or, by -1, below the working folder."""
    parent = os.readlink(f"/proc/self/fd/{descriptor}") if descriptor >= 0 else os.getcwd()
    return by_name(os.path.join(parent, os.fsdecode(name)))


def by_name(path: str) -> str:
    """The name of what is reached through an open file or folder."""
    return os.path.realpath(path) if path.startswith("/proc/self/fd/") else path


def _files(folder: Path) -> Iterator[tuple[Path, State]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path, _state(path.stat())


def _state(found: os.stat_result) -> State:
    return found.st_ino, found.st_size, found.st_mtime_ns


def in_child(folder: Path, act: Act, said: Path, watch: Callable[[Path], Watch] = Watch, stopped: Act = bool) -> int:
    """Run the act in the folder in a process of its own; its status. What it says goes into a file.

    stopped: is called whenever the process has stopped itself, which goes on after that.
    """
    sys.stdout.flush()
    if child := os.fork():
        while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
            stopped()
            os.kill(child, signal.SIGCONT)
        return status
    try:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(folder)
        signal.alarm(HANGS)
        watching = watch(folder)
        act()
        watching.folder = DEAF
        said.with_suffix(".count").write_text(json.dumps([watching.count, sorted(sys.modules)]))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


def crash(scenario: Scenario, folder: Path, stride: int, seed: int) -> Outcome:
    """Stop the act before every `stride`-th operation; run it again from there; compare with what it makes by itself."""
    work, moments, said = folder / "work", Moments(folder), folder / "said"
    work.mkdir(parents=True)
    if status := in_child(work, scenario.prepare, said):
        raise RuntimeError(f"cannot be prepared: {status}: {said.read_text()}")
    watch = partial(Stopping, first=1 + random.Random(seed).randrange(stride), stride=stride, said=said)
    if status := in_child(work, scenario.act, said, watch, moments.keep):
        raise RuntimeError(f"does not end even when left alone: {status}: {said.read_text()}")
    outcome, expected = Outcome(counted(said), points=moments.met), names(work)
    shutil.rmtree(work)
    left = iter(moments.left)
    while some := list(islice(left, AT_ONCE)):
        outcome.failures += gone_on(scenario, work, some, expected, said)
    return outcome


class Moments:
    """What a process would have left where it was killed, or the power failed, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.met = folder, 0
        self.left: list[tuple[str, Path]] = []
        self._known: set[str] = set()

    def keep(self) -> None:
        """Both, as of now: the process stands still."""
        count, where, unsafe = json.loads((self.folder / "said.moment").read_text())
        for way, lost in (("killed", ()), ("dark", unsafe)):
            self.met += 1
            if way == "dark" and not lost:
                continue  # all is on the disk: the same files
            copy = self.folder / f"{way}{count}"
            copied(self.folder / "work", copy)
            lose({copy / name: kept for name, kept in lost}, whole=count % 2 == 0)
            if (state := described(copy)) in self._known:
                shutil.rmtree(copy)
            else:
                self._known.add(state)
                self.left.append((f"{way} {where}", copy))


def copied(folder: Path, copy: Path) -> None:
    """All of it, and two names of one file are two names of one."""
    known: dict[int, str] = {}

    def copy_file(source: str, target: str) -> None:
        number = os.stat(source).st_ino
        if number in known:
            os.link(known[number], target)
        else:
            shutil.copy2(source, target)
            known[number] = target

    shutil.copytree(folder, copy, symlinks=True, copy_function=copy_file)


def described(folder: Path) -> str:
    """All that tells what is in a folder from what is in another: names, content, and which of them are links to what."""
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        kind = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        names = path.lstat().st_nlink if path.is_file() else 0
        digest.update(repr((path.relative_to(folder).as_posix(), kind, names)).encode())
    return digest.hexdigest()


def lose(files: Mapping[Path, int], whole: bool) -> None:
    """What was not put on the disk is not there: nothing of it, or not its second half. files: how many bytes of each were."""
    for path, kept in files.items():
        os.truncate(path, kept if whole else kept + (path.stat().st_size - kept) // 2)


def gone_on(
    scenario: Scenario, work: Path, moments: Iterable[tuple[str, Path]], expected: Mapping[str, object], said: Path
) -> list[str]:
    """Run the act again where it was stopped, moment by moment; what is wrong with how that ends. The folders are gone then."""
    wrong: list[str] = []

    def go_on() -> None:
        for where, left in moments:
            left.rename(work)
            os.chdir(work)
            try:
                scenario.act()
                difference = differing(expected, names(work))
            except BaseException:
                difference = traceback.format_exc().strip()[-2000:]
            if difference:
                wrong.append(f"{where}: {difference}")
            shutil.rmtree(work)
        said.with_suffix(".wrong").write_text(json.dumps(wrong))

    if in_child(work.parent, go_on, said, Unwatched):
        places = ", ".join(where for where, _ in moments)
        return [f"one of {places}: {said.read_text().strip()[-2000:]}"]
    return list(json.loads(said.with_suffix(".wrong").read_text()))


def counted(said: Path) -> int:
    """How many operations a process met; what it imported is imported here, once, for all processes that follow."""
    operations, modules = json.loads(said.with_suffix(".count").read_text())
    for module in modules:
        with suppress(ImportError):  # some are made while others are imported, and have no file
            import_module(module)
    gc.freeze()  # so that looking for garbage copies none of it in each process
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
    different = {name for name in expected.keys() & found.keys() if expected[name] != found[name]}
    kinds = {
        "missing": expected.keys() - found.keys(),
        "left behind": found.keys() - expected.keys(),
        "different": {f"{name} ({_where(expected[name], found[name])})" for name in different},
    }
    return "; ".join(f"{kind}: {', '.join(sorted(some)[:5])}" for kind, some in kinds.items() if some)


def _where(expected: object, found: object) -> str:
    """The first lines of two contents that differ."""
    both = [one.splitlines() if isinstance(one, bytes) else [one] for one in (expected, found)]
    return next(
        (f"{one!r:.400} became {other!r:.400}" for one, other in zip_longest(*both) if one != other), "line ends"
    )
