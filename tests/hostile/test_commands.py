"""Whole commands under hostile input: no stack trace, nothing for the terminal, nothing outside of the output, within a gigabyte."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.command import python
from support.hostile_files import records, sources, tables, tables_of_ours
from support.hostile_pictures import pictures

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs what Linux says of a process")
TESTS = Path(__file__).parents[1]
MOST = 1_000_000_000  # bytes of a process, Python and all libraries among them
FORBIDDEN = ("Traceback", "\x1b", "\x07", "\u202e")


@pytest.mark.slow
def test_commands_stay_within_a_gigabyte_and_end_in_words(tmp_path: Path) -> None:
    """Some two hundred inputs through build, verify, inspect, report, curate, split, --into and annotate: each command ends
    with one of its codes, by itself, in words, having taken less than 1 GB; what lies beside the inputs is what it was."""
    assert sum(map(len, (pictures(), tables(), sources(), records(), tables_of_ours()))) >= 100
    paths = os.pathsep.join(map(str, (TESTS.parent, TESTS)))
    done = python("-m", "support.hostile_commands", str(tmp_path), PYTHONPATH=paths)
    assert done.code == 0, done.err
    runs = [json.loads(line) for line in done.out.splitlines()]
    assert [one for one in runs if one["code"] not in (0, 1, 2)] == []
    assert [one for one in runs if any(text in one["said"] for text in FORBIDDEN)] == []
    assert {one["name"]: one["bytes"] for one in runs if one["bytes"] > MOST} == {}
    commands = Counter(one["command"] for one in runs)
    assert len(commands) == 8
    assert all(inputs >= 15 for inputs in commands.values())
    assert [path.read_text() for path in (tmp_path / "in" / "victim").iterdir()] == ["precious"]
    pages = [path.read_text() for path in (tmp_path / "out" / "report").glob("*.html")]
    assert len(pages) > 10
    assert not any("<script>alert" in page for page in pages)
