"""A training program, measured from outside: when its updates ended, its peak memory, how often the host waited."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import environment

# Runs a program, and writes down when its optimizer's steps ended, in seconds since the epoch, before which of them the GPU was
# waited for, how much memory it took at most, in bytes, and with what its allocator kept, and how often a step of LOOKED made the
# host wait for the GPU: argv is FILE BEFORE PROGRAM ARGUMENTS..., of which BEFORE is Python to be run first.
LOOKED = (11, 14)  # steps, between two waits of the measurement itself
MEASURED = """
import atexit, json, resource, runpy, sys, time, warnings
import torch
from torch import cuda
from torch.optim.optimizer import register_optimizer_step_post_hook
_, file, before, *sys.argv = sys.argv
steps, waited, waits = [], [], None
def showwarning(message, *_, **__):
    global waits
    waits += "synchroniz" in str(message)
def look(n):
    global waits, plain
    if n == LOOKED[0]:
        waits, plain, warnings.showwarning = 0, warnings.showwarning, showwarning
        warnings.simplefilter("always")
    if n in LOOKED:
        cuda.set_sync_debug_mode("warn" if n == LOOKED[0] else "default")
    if n == LOOKED[1]:
        warnings.showwarning = plain
def step(*_):
    if not cuda.is_initialized() or len(steps) % 10 == 9:
        cuda.synchronize() if cuda.is_initialized() else None
        waited.append(len(steps))
    steps.append(time.time())
    look(len(steps)) if cuda.is_initialized() else None
register_optimizer_step_post_hook(step)
def write():
    gpu = (cuda.max_memory_allocated(), cuda.max_memory_reserved()) if cuda.is_initialized() else None
    peak = gpu or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024] * 2
    found = {"steps": steps, "waited": waited, "peak": peak[0], "reserved": peak[1], "waits": waits}
    open(file, "w").write(json.dumps(found))
atexit.register(write)
exec(before)
script = sys.argv[0].endswith(".py")
(runpy.run_path if script else runpy.run_module)(sys.argv[0], run_name="__main__", **({} if script else {"alter_sys": True}))
""".replace("LOOKED", str(LOOKED))
SETTLED = 5  # updates until the speed is that of all others


class RunFailed(Exception):
    """A program that was measured ended with an error; its last words."""


@dataclass(frozen=True)
class Measured:
    """What a program did."""

    ends: Sequence[float]  # of its updates, seconds since it began
    waited: Sequence[int]  # at the ends of which of them nothing was under way any more
    peak: int  # bytes
    reserved: int  # with what the allocator kept
    waits: float | None  # of the host for the device, an update; None where there is no device, or were too few updates

    def speed(self, batch: int) -> float:
        """Pictures a second, once it has settled."""
        marks = [n for n in self.waited if n >= SETTLED - 1]
        return (marks[-1] - marks[0]) * batch / (self.ends[marks[-1]] - self.ends[marks[0]])


def measure(folder: Path, command: Sequence[str], updates: int, before: str = "", **more: str) -> Measured:
    """Run a program of that many updates. before: Python that it runs first; more: of its environment. Raises RunFailed."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder / "measured"), before, *command],
        capture_output=True,
        text=True,
        env=environment(HF_HUB_OFFLINE="1", DIFFUSERS_VERBOSITY="error", **more),
    )
    if done.returncode:
        raise RunFailed(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    found = json.loads((folder / "measured").read_text())
    rehearsed = len(found["steps"]) - updates  # what is before
    ends = [end - began for end in found["steps"][rehearsed:]]
    waited = [n - rehearsed for n in found["waited"] if n >= rehearsed]
    looked = found["waits"] is not None and len(found["steps"]) >= LOOKED[1]
    waits = found["waits"] / (LOOKED[1] - LOOKED[0]) if looked else None
    return Measured(ends, waited, found["peak"], found["reserved"], waits)
