"""A disk that is full, or fails: a command says so in a line, breaks nothing, and goes on once there is room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.thorough import examples

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
TESTS = Path(__file__).parents[1]
SCENARIOS = ("build", "into", "split", "checkpoints")


@pytest.mark.slow
def test_a_disk_that_refuses_is_named_and_costs_nothing(tmp_path: Path) -> None:
    """No space from some operation on, an error once or from then on, a file that may not grow: one line says which, and the same
    command ends with the bytes of an undisturbed one as soon as the disk lets it."""
    program = [sys.executable, "-m", "support.refusals", tmp_path, str(examples(30, 1)), "0", *SCENARIOS]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: one["failures"] for name, one in found.items() if one["failures"]} == {}
    assert sum(one["points"] for one in found.values()) >= 30
