"""A disk that is full, or fails: a command says so in a line, breaks nothing, and goes on once there is room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.crash_scenarios import dataset
from support.thorough import examples

import condprep

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
TESTS = Path(__file__).parents[1]
SCENARIOS = ("build", "into", "split", "checkpoints", "parquet", "overwrite", "import", "curate", "merge", "export")


@pytest.mark.slow
def test_a_disk_that_refuses_is_named_and_costs_nothing(tmp_path: Path) -> None:
    """No space from some operation on, an error once or from then on, a file that may not grow: one line says which, and the same
    command ends with the bytes of an undisturbed one as soon as the disk lets it."""
    program = [sys.executable, "-m", "support.refusals", tmp_path, str(examples(60, 1)), "0", *SCENARIOS]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: one["failures"] for name, one in found.items() if one["failures"]} == {}
    assert sum(one["points"] for one in found.values()) >= 30


def test_the_next_command_removes_what_a_disk_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last clean-up was refused: whatever is done next in that folder takes the shards away, the same command or another."""
    monkeypatch.chdir(tmp_path)
    dataset()
    acts = (
        lambda: condprep.split("ds", 0.4),
        lambda: condprep.add_columns("ds", "canny:random", workers=1),
        lambda: condprep.curate("ds", "out", "duplicates", workers=1),
        lambda: condprep.curate("ds", "out", "duplicates", workers=1),
        lambda: condprep.merge(["ds", "ds"], "both"),
        lambda: condprep.merge(["ds", "ds"], "both"),
    )
    for act, out in zip(acts, ("ds", "ds", "out", "out", "both", "both"), strict=True):
        left = tmp_path / out / ".condprep" / "shards" / "000000"
        if (tmp_path / out / ".condprep").exists():
            left.mkdir(parents=True)
        act()
        assert not left.parent.exists()
