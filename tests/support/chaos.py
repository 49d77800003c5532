"""A process that forks builds and kills them: imports are paid once. Used by test_faults.py.

    python tests/support/chaos.py RAW OUT SEED ROUNDS

Half of the builds die at a random file operation (any of those that Python audits, so that every stage is met), half
after a random time. Each is resumed with another number of workers until it is done. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from condprep.building.build import build

EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree"}
OPTIONS = {"resolution": 64, "shard_rows": 3, "validation": 0.3}


def fork(raw: Path, out: Path, workers: int, die: Callable[[int], bool], report: Path | None = None) -> int:
    """A build in a process of its own that kills itself at the n-th file operation in `out` when die(n) says so."""
    child = os.fork()
    if child:
        return child
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in EVENTS and arguments and str(out) in str(arguments[0]):
            count += 1
            if die(count):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    try:
        build(raw, out, ["canny", "canny:random"], workers=workers, **OPTIONS)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    if report:
        report.write_text(str(count))
    os._exit(0)


def killed(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def main(raw: Path, out: Path, seed: int, rounds: int) -> None:
    rng, began = random.Random(seed), time.monotonic()
    os.waitpid(fork(raw, out / "whole", 2, lambda n: False, out / "count"), 0)
    seconds, operations = time.monotonic() - began, int((out / "count").read_text())
    kills, statuses = 0, []
    for number in range(rounds):
        folder = out / f"killed{number}"
        for attempt in range(4):  # the last attempt is left alone
            last = attempt == 3
            moment = rng.randint(1, operations) if number % 2 and not last else 0
            child = fork(raw, folder, rng.choice([1, 3, 4]), lambda n, moment=moment: n == moment)
            if not (last or moment):
                time.sleep(rng.uniform(0, seconds))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            kills += killed(status)
            if not killed(status):
                break
        statuses.append(status)
    print(json.dumps({"kills": kills, "statuses": statuses, "operations": operations, "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
