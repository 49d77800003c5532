"""What the trainer's command line shows while it trains, and before."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from support.trainer_runs import make_place, make_recipe

from condprep.cli import progress as display
from condprep.cli.progress import Lines, duration
from trainer.cli.console import measured_line, training_progress
from trainer.training.train import train


def test_updates_are_shown_with_what_was_measured(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Without a terminal a plain line on standard error: update, loss, rate, condition gap, pictures a second, time left."""
    lines, now = Lines(), 0.0
    monkeypatch.setattr(display, "_lines", lambda: nullcontext(lines))
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with training_progress() as (progress, measured):
        progress("updates", 1, 1000)
        measured({"loss": 0.12345, "lr": 1e-5, "condition_gap": 1.234, "pictures_per_second": 56.78})
        now = 10.0
        progress("updates", 11, 1000)
        lines.beat(now)
        progress("latents of train", 1, 8)
        now = 20.0
        progress("latents of train", 2, 8)
        lines.beat(now)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "updates: 11/1000, loss 0.1235, lr 1e-05, condition gap 1.23, 56.8 pictures/s, 1.0/s, 16 min left",
        "latents of train: 2/8, 0.1/s, 60 s left",
    ]


def test_what_was_not_measured_yet_is_not_shown() -> None:
    """Before the first line of metrics, and without held-out rows."""
    assert measured_line({}) == ""
    assert measured_line({"lr": 2e-6, "epoch": 1.0}) == "lr 2e-06"


@pytest.mark.parametrize(
    ("seconds", "said"), [(119, "119 s"), (121, "2 min"), (7100, "118 min"), (12_000, "3 h 20 min")]
)
def test_times_are_said_in_their_units(seconds: float, said: str) -> None:
    """Seconds, minutes, hours: as a person says them."""
    assert duration(seconds) == said


def test_a_start_says_what_it_does(tmp_path: Path) -> None:
    """Each step that takes long, in its order, before the first update; then the newest metrics with every update."""
    place = make_place(tmp_path, rows=8)
    told: list[Any] = []
    train(
        make_recipe(place, tmp_path / "output", train={"steps": 2}, log={"every": 1}),
        say=told.append,
        progress=lambda stage, *_: told.append(stage),
        measured=lambda metrics: told.append(set(metrics)),
    )
    steps = ["looking at the rows of", "loading the base model", "trying an update and a validation"]
    starts = [next(n for n, one in enumerate(told) if isinstance(one, str) and one.startswith(step)) for step in steps]
    first = told.index("updates")
    assert starts == sorted(starts)
    assert starts[-1] < first
    shown = [one for one in told if isinstance(one, set)]
    assert "loss" not in shown[0]
    assert {"loss", "lr", "pictures_per_second"} <= shown[-1]
