"""Every file operation of commands that write is met by something: they are stopped, the disk refuses, a folder is exchanged."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from support.crash_scenarios import BUILDING, CURATING, TRAINING
from support.operations import met, tries
from support.thorough import examples

pytestmark = [
    pytest.mark.slow(first=True),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked"),
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs paths of open files"),
]
REFUSED = ("build", "into", "split", "checkpoints", "parquet", "overwrite", "import", "curate", "merge", "export")
EXCHANGED = (
    *("build", "into", "curate", "split", "retry", "verify", "report"),
    *("caches", "checkpoints", "export"),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What became of curating and training that was stopped, of what a disk refused, and of what was exchanged.

    All in one process, for what they have in common takes longest: to import what training needs.
    """
    seed = random.randrange(10_000)  # the same for the same --randomly-seed
    return met(
        tmp_path_factory.mktemp("operations"),
        tries("stopped", examples(9, 1), seed, CURATING),
        tries("stopped", examples(4, 1), seed, TRAINING),
        tries("refused", examples(60, 1), 0, REFUSED),
        tries("exchanged", examples(16, 1), 0, EXCHANGED),
    )


def check(found: dict[str, Any], points: int) -> None:
    """Nothing went wrong, in so many tries at the least."""
    assert {name: one["failures"] for name, one in found.items() if one["failures"]} == {}
    assert sum(one["points"] for one in found.values()) >= points


def test_builds_are_stopped_anywhere(tmp_path: Path) -> None:
    """Killed or without power, before any operation, the same command ends as if it had never been stopped; moments are others
    in every run."""
    seed = random.randrange(10_000)
    (stopped,) = met(tmp_path, tries("stopped", examples(9, 1), seed, BUILDING))
    check(stopped, 150)


def test_the_others_are_stopped_anywhere(found: list[dict[str, Any]]) -> None:
    """The same of every other command that writes, and of what training keeps."""
    curating, training, *_ = found
    assert curating.keys() == CURATING.keys()
    assert training.keys() == TRAINING.keys()
    check(curating, 55)
    check(training, 90)


def test_a_disk_that_refuses_is_named_and_costs_nothing(found: list[dict[str, Any]]) -> None:
    """No space from some operation on, an error once or from then on, a file that may not grow: one line says which, and the same
    command ends with the bytes of an undisturbed one as soon as the disk lets it."""
    assert found[2].keys() == {*REFUSED}
    check(found[2], 30)


def test_what_is_exchanged_meanwhile_leads_nowhere(found: list[dict[str, Any]]) -> None:
    """Build, --into, curate, split, retry, verify, caches, checkpoints, the result: a folder that is another dataset's by now
    is neither written to nor emptied."""
    assert found[3].keys() == {*EXCHANGED}
    check(found[3], 40)
