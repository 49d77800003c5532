"""How far a long call is, shown."""

from __future__ import annotations

import time

import pytest

from condprep.cli.progress import progress
from condprep.runtime.progress import Progress


def test_progress_is_plain_lines_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into a file: a line every ten seconds with the counts, the rate and the time left, and no control characters."""
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress() as advance:
        for done in range(21):
            advance(Progress("build", done, 20, rejects=done // 10))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "build: 3/20, 0 rejected, 0.2/s, 68 s left"
    assert len(lines) == 6
    assert all(line.isprintable() for line in lines)


def test_the_rate_is_that_of_the_last_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What went fast at first, as rows that were done before, does not count in what is left."""
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress() as advance:
        for done in (0, 500, 1000, 1005, 1010, 1015, 1020):
            advance(Progress("build", done, 1100))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "build: 1000/1100, 0 rejected, 100.0/s, 1 s left",
        "build: 1010/1100, 0 rejected, 1.0/s, 90 s left",
        "build: 1020/1100, 0 rejected, 1.0/s, 80 s left",
    ]
