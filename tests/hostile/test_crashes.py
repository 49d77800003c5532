"""Stopped before any file operation, killed or without power, the same command ends as if it had never been stopped."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.crash_scenarios import BUILDING, CURATING, LONG, TRAINING
from support.thorough import examples
from support.warm import Warm

import condprep
from condprep.dataset.layout import Layout
from condprep.errors import DatasetError
from condprep.runtime.files import commit_json

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
TESTS = Path(__file__).parents[1]
MANY = [
    (BUILDING, 9, 150),
    (CURATING, 9, 55),
    (TRAINING, 4, 90),
]  # each in one process, which imports it all once


def crashed(folder: Path, stride: int, *scenarios: str) -> dict[str, Any]:
    """What became of each scenario, stopped before every `stride`-th operation, from one on that is another in every run.

    In a process of its own, for it has to be small.
    """
    seed = str(random.randrange(10_000))  # the same for the same --randomly-seed
    program = [sys.executable, "-m", "support.crash_scenarios", folder, str(stride), seed, *scenarios]
    paths = os.pathsep.join(map(str, (TESTS.parent, TESTS)))
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_stopped_here_and_there(tmp_path: Path) -> None:
    """A few moments of a build: the second run ends with the bytes of an undisturbed one, and leaves nothing behind."""
    found = crashed(tmp_path, 37, "build")["build"]
    assert found["failures"] == []
    assert found["points"] >= 4


@pytest.mark.slow(first=True)
@pytest.mark.parametrize(("scenarios", "stride", "points"), MANY, ids=["building", "curating", "training"])
def test_stopped_anywhere(tmp_path: Path, scenarios: Iterable[str], stride: int, points: int) -> None:
    """The same of every command that writes, at 300 moments and more, which are others in every run."""
    found = crashed(tmp_path, examples(stride, 1), *scenarios)
    assert {name: one["failures"] for name, one in found.items() if one["failures"]} == {}
    assert sum(one["points"] for one in found.values()) >= points


@pytest.mark.slow
def test_a_run_stopped_here_and_there(tmp_path: Path, warm: Warm) -> None:
    """The same of a whole training, whose imports would take longer than itself."""
    seed = random.randrange(10_000)
    code, said, errors = warm.run(tmp_path, "support.crash_scenarios", tmp_path, examples(120, 1), seed, *LONG)
    assert code == 0, errors
    found = json.loads(said)
    assert {name: one["failures"] for name, one in found.items() if one["failures"]} == {}
    assert sum(one["points"] for one in found.values()) >= 4


def test_a_dataset_in_the_middle_of_getting_columns_says_so(tmp_path: Path) -> None:
    """While some of its files are old and some new, nobody reads it; and it is said how it goes on."""
    (tmp_path / "train").mkdir()
    staging = Layout(Layout(tmp_path).private / "into")
    staging.private.mkdir(parents=True)
    commit_json(staging.done, {})
    with pytest.raises(DatasetError, match="condprep build --into` or `condprep split` again"):
        condprep.verify(tmp_path)
