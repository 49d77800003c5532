"""`python -m bench plan`: the plan that it measures is the one that builds write."""

from __future__ import annotations

import time
from pathlib import Path

from bench.plan import measure


def test_going_on_is_measured_with_and_without_the_inputs(tmp_path: Path) -> None:
    """A plan of whole files, and the head of one that is much larger, which is what a build that goes on reads of it."""
    whole = measure(tmp_path / "whole", 1200, 10, False, time.process_time)
    head = measure(tmp_path / "head", 1_000_000, 1000, True, time.process_time)
    assert {"inputs", "write", "again", "by listing", "first shard", "shard", "MB", "MB on disk"} == whole.keys()
    assert {"inputs", "again", "MB"} == head.keys()
    assert whole["MB on disk"] > 0
