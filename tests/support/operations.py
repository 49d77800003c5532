"""What may meet the file operations of commands, all of it in one process: imports take longer than most commands do.

    PYTHONPATH=tests python -m support.operations FOLDER WAY:STRIDE:SEED:SCENARIO,SCENARIO ...

Ways: "stopped" (tests/support/crash.py), "refused" (refusals.py), "exchanged" (exchange.py). The scenarios are those of
tests/support/crash_scenarios.py. Prints as JSON, for each of these words, what became of each of its scenarios.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from support.crash import crash
from support.crash_scenarios import prepared
from support.exchange import harm
from support.refusals import refuse

WAYS = {"stopped": crash, "refused": refuse, "exchanged": harm}
TESTS = Path(__file__).parents[1]


def tries(way: str, stride: int, seed: int, scenarios: Iterable[str]) -> str:
    """A word of that command line."""
    return f"{way}:{stride}:{seed}:{','.join(scenarios)}"


def met(folder: Path, *words: str) -> list[dict[str, Any]]:
    """What became of the scenarios of each word, in a process of its own, for it has to be small."""
    program = [sys.executable, "-m", "support.operations", folder, *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def main(folder: Path, words: Iterable[str]) -> None:
    asked = [(way, int(stride), int(seed), names.split(",")) for way, stride, seed, names in map(_parts, words)]
    found: list[dict[str, Any]] = [{} for _ in asked]
    for name, scenario in prepared({name for *_, names in asked for name in names}):
        for number, (way, stride, seed, names) in enumerate(asked):
            if name in names:
                outcome = WAYS[way](scenario, folder.absolute() / str(number) / name, stride, seed)
                found[number][name] = asdict(outcome)
    print(json.dumps(found))


def _parts(word: str) -> list[str]:
    return word.split(":")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
