"""Whole commands on hostile input: each ends in words, and none takes more than a gigabyte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
TESTS = Path(__file__).parents[1]
GIGABYTE = (
    1e9  # of which torch, transformers and datasets, which this process imports for all of them, take almost a half
)
SOME = (  # of the 400 that `python -m support.hostile_commands` runs; a few of each kind
    *("build: a caption of 150 MB", "build: zip: zeros", "build: tar: a negative size"),
    *("build: listing: a line of 50 MB", "verify: a list of 140 MB"),
    *("inspect: a footer of 1 GB", "inspect: provenance.json that is sparse", "report: a caption of 150 MB"),
    *("curate: provenance 0", "split: ours: no key", "into: ours: no key"),
    *("into: ours: a key of no digits", "into: provenance 2", "annotate: provenance 4"),
)


def ended(folder: Path, *which: str) -> list[dict[str, Any]]:
    program = [sys.executable, "-m", "support.hostile_commands", folder, *which]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_table_of_all_hostile_pictures_takes_no_gigabyte(tmp_path: Path) -> None:
    """Measured by `verify`, and drawn by `report`: large ones wait for each other and for freed memory, and nothing heavy is imported
    that is not needed, which a process for them alone shows."""
    (found,) = ended(tmp_path, "report: pictures as rows")
    assert found["code"] == 0
    assert found["bytes"] < GIGABYTE


@pytest.mark.slow
def test_every_command_ends_in_words_and_takes_no_gigabyte(tmp_path: Path) -> None:
    """Done, not all done, or a mistake: 0, 1 or 2; no stack trace, and nothing that moves the terminal.

    Tables of zstd, pictures of gigapixels, records of 8 GB: the peak of each process, as the kernel counts it.
    """
    found = ended(tmp_path, *SOME)
    assert len(found) == len(SOME)
    assert [one for one in found if one["code"] not in (0, 1, 2) or "Traceback" in one["said"]] == []
    assert [one for one in found if {"\x1b", "\x07"} & {*one["said"]}] == []
    assert [one for one in found if one["bytes"] > GIGABYTE] == []
