"""A process that forks the parts of builds and kills them, and whoever finishes them. Used by test_parts_killed.py.

    python tests/support/chaos_parts.py RAW OUT SEED KILLS

Three parts run at once; each dies at a random file operation of its own and is started again, until all have come to their
end. So does what makes the dataset of them. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from support.chaos import ANNOTATOR, OPTIONS, fork, killed, operations

from condprep.building.build import build
from condprep.building.finish_parts import finish
from condprep.errors import BuildFailed

Watching = Callable[[Path], Callable[[Callable[[], None]], None]]
PARTS, ATTEMPTS = 3, 4  # the last attempt is left alone


def until_done(
    acts: list[Callable[[], object]], out: Path, most: int, rng: random.Random, watching: Watching = operations
) -> tuple[int, list[int]]:
    """All at once, and those that died again; how many kills that took, and how the last ones ended."""
    kills, attempts, statuses = 0, [0] * len(acts), [-1] * len(acts)
    running: dict[int, int] = {}

    def start(number: int) -> None:
        attempts[number] += 1
        moment = rng.randint(1, most) if attempts[number] < ATTEMPTS else 0
        running[fork(acts[number], out, watching(out), moment)] = number

    for number in range(len(acts)):
        start(number)
    while running:
        child, status = os.wait()
        number = running.pop(child)
        if killed(status):
            kills += 1
            start(number)
        else:
            statuses[number] = status
    return kills, statuses


def finish_too_early(out: Path) -> None:
    try:
        finish(out)
    except BuildFailed:
        return
    raise AssertionError("shards were missing, and it was finished")


def main(raw: Path, out: Path, seed: int, least: int) -> None:
    rng, kills, ends, builds = random.Random(seed), 0, set[int](), 0
    whole = out / "whole"
    act = partial(build, raw, whole, ANNOTATOR, workers=1, **OPTIONS)
    os.waitpid(fork(act, whole, operations(whole), 0, tell=True), 0)
    most, modules = json.loads(whole.with_suffix(".count").read_text())
    for module in [*modules, "condprep.building.finish_parts"]:  # once, for all processes that follow
        try:
            import_module(module)
        except ImportError:  # some are made while others are imported, and have no file
            continue
    while kills < least:
        ds = out / f"killed{builds}"
        parts = [partial(build, raw, ds, ANNOTATOR, part=(n, PARTS), workers=1, **OPTIONS) for n in range(PARTS)]
        for acts in (parts[:1], [partial(finish_too_early, ds)], parts, [partial(finish, ds)]):
            died, statuses = until_done(acts, ds, most // 2, rng)
            kills, ends = kills + died, ends | set(statuses)
        builds += 1
    print(json.dumps({"kills": kills, "ends": sorted(ends), "builds": builds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
