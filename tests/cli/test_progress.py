"""How far a long call is, shown."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest

from condprep.cli import progress as display
from condprep.cli.progress import Lines, progress
from condprep.runtime.progress import Progress


def shown(
    news: Iterable[Progress | None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, step: float
) -> list[str]:
    """The lines, where so many seconds lie between the news; None: there are none. The clock beats every ten seconds."""
    lines, now, beat = Lines(), 0.0, 10.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for number, state in enumerate(news):
        now = number * step
        if state:
            lines(state)
        if now >= beat:
            lines.beat(now)
            beat += 10
    lines.end(now)
    return capsys.readouterr().err.splitlines()


def test_progress_is_plain_lines_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into a file: a line every ten seconds with the counts, the rate and the time left, and no control characters."""
    news = [Progress("build", done, 20, rejects=done // 10) for done in range(21)]
    lines = shown(news, capsys, monkeypatch, 4)
    assert lines[0] == "build: 3/20, 0 rejected, 0.2/s, 68 s left"
    assert lines[-1] == "build: 20/20, 2 rejected, 0.2/s on average, took 80 s"
    assert len(lines) == 9
    assert all(line.isprintable() for line in lines)


def test_the_rate_is_that_of_the_last_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What went fast at first, as rows that were done before, does not count in what is left."""
    news = [Progress("build", done, 1100) for done in (0, 500, 1000, 1005, 1010, 1015, 1020)]
    assert shown(news, capsys, monkeypatch, 5)[:-1] == [
        "build: 1000/1100, 0 rejected, 100.0/s, 1 s left",
        "build: 1010/1100, 0 rejected, 1.0/s, 90 s left",
        "build: 1020/1100, 0 rejected, 1.0/s, 80 s left",
    ]


def test_lines_come_evenly_where_news_come_in_bursts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch takes 30 seconds: there is a line every ten all the same, whose rate is that since what was last finished."""
    news = [Progress("annotate", 12 * (at // 30), 48) if at % 30 == 0 else None for at in range(0, 70, 10)]
    assert shown(news, capsys, monkeypatch, 10) == [
        "annotate: 0/48, 0 rejected, 0.0/s",
        "annotate: 0/48, 0 rejected, 0.0/s",
        "annotate: 12/48, 0 rejected, 1.2/s, 30 s left",
        "annotate: 12/48, 0 rejected, 0.6/s, 60 s left",
        "annotate: 12/48, 0 rejected, 0.4/s, 90 s left",
        "annotate: 24/48, 0 rejected, 1.2/s, 20 s left",
        "annotate: 24/48, 0 rejected, 0.4/s on average, took 60 s",
    ]


def test_the_last_line_is_about_what_took_longest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Listing before and finishing after it are not the work; what is over within ten seconds says nothing at all."""
    stages = [Progress("list", 9, None), *(Progress("build", n, 3) for n in range(4)), Progress("finish", 3, 3)]
    assert shown(stages, capsys, monkeypatch, 4)[-1] == "build: 3/3, 0 rejected, 0.2/s on average, took 16 s"
    assert shown(stages, capsys, monkeypatch, 1) == []
    again = [Progress("updates", 1, 9), Progress("validate", 1, 1), *(Progress("updates", n, 9) for n in (1, 2, 3))]
    assert shown(again, capsys, monkeypatch, 4)[-1] == "updates: 3/9, 0 rejected, 0.2/s on average, took 12 s"


def test_the_clock_is_the_displays_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines come while nobody tells anything, and none once the block is over."""
    monkeypatch.setattr(display, "PLAIN_EVERY", 0.001)
    beaten, real = [], Lines.beat
    with progress() as advance:
        advance(Progress("build", 1, 2))
        monkeypatch.setattr(Lines, "beat", lambda lines, now: (beaten.append(now), real(lines, now)))
        while len(beaten) < 3:
            time.sleep(0.001)
    there = len(beaten)
    assert beaten == sorted(beaten)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= there + 1
    assert lines[-1].startswith("build: 1/2, 0 rejected, 0.0/s on average")
