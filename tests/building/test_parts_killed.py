"""Parts that are killed, at any moment and all at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.datasets import tree
from support.pictures import encoded, smooth
from support.thorough import examples

KILLS = examples(15, 300)


@pytest.mark.slow
def test_killed_at_random_the_parts_make_the_bytes_of_one_build(tmp_path: Path) -> None:
    """Three processes die by SIGKILL at random file operations, again and again, and so does who finishes: the dataset
    is that of an undisturbed build, nothing is lost or doubled, and nothing else is left."""
    for number in range(8):
        path = tmp_path / "raw" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"" if number == 5 else encoded(smooth(64, 64, number), "PNG"))
    tests = Path(__file__).parents[1]
    program = [sys.executable, tests / "support" / "chaos_parts.py", tmp_path / "raw", tmp_path, "0", str(KILLS)]
    paths = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ends"] == [0], done.stderr
    assert report["kills"] >= KILLS
    whole = tree(tmp_path / "whole")
    assert len(whole) > 10
    for number in range(report["builds"]):
        assert tree(tmp_path / f"killed{number}") == whole
