"""The `condprep` command as tests call it, and Python in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import condprep


@dataclass
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command(Protocol):
    def __call__(self, *arguments: object) -> Run: ...


def python(*arguments: str, **environment: str) -> Run:
    """Python in a process of its own."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=Path(condprep.__file__).parents[1],
        env=os.environ | environment,
    )
    return Run(done.returncode, done.stdout, done.stderr)
