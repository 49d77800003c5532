"""A disk that refuses at every file operation of a command, one after another; then it is mended, and the command runs again.

    PYTHONPATH=tests python -m support.operations FOLDER refused:STRIDE:SEED:SCENARIO,SCENARIO

The scenarios and operations are those of tests/support/crash.py. A disk may be full (from some operation on, whatever takes
space is refused), fail once, or fail from some operation on; and writing itself may fail, be it in Arrow or in safetensors: no
file may be larger than so many bytes. A command ends in one line that says what the disk said, or bears it and makes what it
would have made. Once the disk is well again it ends as if nothing had been.
"""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import shutil
import signal
import traceback
from pathlib import Path

from support.crash import DEAF, HANGS, Act, Outcome, Scenario, Watch, counted, differing, in_child, names

from condprep.errors import CondprepError
from condprep.runtime import retry

KINDS = {"full": errno.ENOSPC, "once": errno.EIO, "broken": errno.EIO, "large": errno.EFBIG}
FREES = {"os.remove", "os.rmdir", "os.rename", "os.truncate"}  # are granted by a full disk
LEFT = re.compile(r"left behind: [a-z]+/\.condprep")  # a clean-up that was refused: the next command finishes it
REFUSED = 3  # the status of a command that said so


class Refusing(Watch):
    """Lets operations fail: from the `point`-th one on, or only there."""

    def __init__(self, folder: Path, kind: str, point: int) -> None:
        self.kind, self.point = kind, point
        super().__init__(folder)

    def happens(self, path: str, event: str) -> None:
        """As the operating system does it: fsync knows no name."""
        if self.kind == "large" or self.count < self.point or (self.kind == "once" and self.count > self.point):
            return
        if self.kind == "full" and (event in FREES or (event == "open" and os.path.lexists(path))):
            return
        number = KINDS[self.kind]
        raise OSError(number, os.strerror(number), *[path] * (event != "fsync"))


def on_that_disk(folder: Path, act: Act, kind: str, point: int, said: Path) -> int:
    """The act's status in a process of its own, and into a file what the command line would say. point: bytes, of "large"."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code, words = 1, ""
    try:
        os.chdir(folder)
        signal.alarm(HANGS)
        retry.PAUSE = 0
        watch = Refusing(folder, kind, point)
        if kind == "large":
            resource.setrlimit(resource.RLIMIT_FSIZE, (point, resource.RLIM_INFINITY))
        act()
        code = 0
    except (CondprepError, OSError) as error:
        code, words = REFUSED, str(error)
        if isinstance(error, OSError) and error.filename:
            words = f"{error.filename}: {error.strerror}"
        words += f"\0{traceback.format_exc()}"
    except BaseException:
        words = traceback.format_exc()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    watch.folder = DEAF
    said.write_text(words)
    os._exit(code)


def unclear(words: str, kind: str) -> str:
    """What is wrong with how it was said: one line names what the disk said, and of what."""
    line, _, trace = words.partition("\0")
    if os.strerror(KINDS[kind]) in line and "\n" not in line and not line.startswith("[Errno"):
        return ""
    return f"says {line!r}: {trace[-1500:]}"


def refuse(scenario: Scenario, folder: Path, stride: int, seed: int) -> Outcome:
    """Each kind of disk at every `stride`-th operation, and at a few sizes of files."""
    before, work, whole, said = (folder / name for name in ("before", "work", "whole", "said"))
    before.mkdir(parents=True)
    for place, act in ((before, scenario.prepare), (whole, scenario.act)):
        if act is scenario.act:
            shutil.copytree(before, whole, symlinks=True)
        if status := in_child(place, act, said):
            raise RuntimeError(f"does not end even when left alone: {status}: {said.read_text()}")
    outcome, expected, chosen = Outcome(counted(said)), names(whole), random.Random(seed)
    made = sorted({len(data) for name, data in expected.items() if data and not (before / name).exists()})
    tries = [
        *((kind, point) for kind in KINDS if kind != "large" for point in points(chosen, outcome.operations, stride)),
        *(("large", size - 1) for size in chosen.sample(made, min(len(made), max(1, 12 // stride)))),
    ]
    for kind, point in tries:
        shutil.copytree(before, work, symlinks=True)
        status, where, difference = on_that_disk(work, scenario.act, kind, point, said), f"{kind} {point}: ", ""
        outcome.points += 1
        if status not in (0, REFUSED):
            outcome.failures.append(f"{where}ended by {status}: {said.read_text()[-2000:]}")
        elif status and (wrong := unclear(said.read_text(), kind)):
            outcome.failures.append(where + wrong)
        elif not status and (difference := differing(expected, names(work))) and not LEFT.search(difference):
            outcome.failures.append(f"{where}was borne, and made another result: {difference}")
        elif (status or difference) and in_child(work, scenario.act, said):
            outcome.failures.append(f"{where}and then, with a disk that is well: {said.read_text()[-2000:]}")
        elif difference := differing(expected, names(work)):
            outcome.failures.append(f"{where}ended by {status}, and then {difference}")
        shutil.rmtree(work)
    return outcome


def points(chosen: random.Random, operations: int, stride: int) -> range:
    return range(1 + chosen.randrange(stride), operations + 1, stride)
