"""Stopped before any file operation, killed or without power, the same command ends as if it had never been stopped."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from support.crash_scenarios import LONG
from support.operations import met, tries
from support.thorough import examples
from support.warm import Warm

import condprep
from condprep.dataset.layout import Layout
from condprep.errors import DatasetError
from condprep.runtime.files import commit_json

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")


def test_stopped_here_and_there(tmp_path: Path) -> None:
    """A few moments of a build: the second run ends with the bytes of an undisturbed one, and leaves nothing behind."""
    (found,) = met(tmp_path, tries("stopped", 37, random.randrange(10_000), ["build"]))
    assert found["build"]["failures"] == []
    assert found["build"]["points"] >= 4


@pytest.mark.slow
def test_a_run_stopped_here_and_there(tmp_path: Path, warm: Warm) -> None:
    """The same of a whole training, whose imports would take longer than itself."""
    word = tries("stopped", examples(120, 1), random.randrange(10_000), LONG)
    code, said, errors = warm.run(tmp_path, "support.operations", tmp_path, word)
    assert code == 0, errors
    (found,) = json.loads(said)
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
