"""A disk that is full, or fails: a command says so in a line, breaks nothing, and goes on once there is room."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.crash_scenarios import dataset

import condprep


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
