"""A program that `bench.measured` measures, from `Warm`: `python -m support.measured FILE BEFORE PROGRAM ARGUMENTS...`."""

from __future__ import annotations

import atexit
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.warm import Warm

from bench.measured import MEASURED


def run_by(warm: Warm, folder: Path) -> Callable[..., Any]:
    """For `subprocess.run` of `python -c MEASURED ...`; folder: for what the program says."""

    def run(command: Sequence[str], **_: Any) -> Any:
        assert command[1:3] == ["-c", MEASURED]
        return subprocess.CompletedProcess(command, *warm.run(folder, "support.measured", *command[3:]))

    return run


if __name__ == "__main__":
    own: dict[str, Any] = {"__name__": "__main__"}
    last: list[Callable[[], object]] = []
    atexit.register = lambda function, *_, **__: last.append(function)  # type: ignore[assignment]  # those of the tests are not for here
    try:
        exec(MEASURED, own)
    finally:
        for function in last:
            if getattr(function, "__globals__", None) is own:
                function()
