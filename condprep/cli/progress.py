"""How far a long call is: a bar in a terminal, a plain line now and then elsewhere, both on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from condprep.cli.console import err
from condprep.runtime.progress import Progress

PLAIN_EVERY = 10.0  # seconds between lines where the output is no terminal


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """A callback for `condprep.build` and its like."""
    if err.is_terminal:
        with RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=err,
        ) as bars:
            yield _Bars(bars)
    else:
        yield _Lines()


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


class _Bars:
    def __init__(self, bars: RichProgress) -> None:
        self.bars, self.stage = bars, ""

    def __call__(self, state: Progress) -> None:
        if state.stage != self.stage:
            self.stage = state.stage
            for task in self.bars.task_ids:
                self.bars.remove_task(task)
            self.task = self.bars.add_task(state.stage, total=state.total, completed=state.done)
        rejects = f", {state.rejects} rejected" if state.rejects else ""
        self.bars.update(self.task, completed=state.done, description=state.stage + rejects)


class _Lines:
    def __init__(self) -> None:
        self.stage, self.first, self.began, self.last = "", 0, 0.0, 0.0

    def __call__(self, state: Progress) -> None:
        now = time.monotonic()
        if state.stage != self.stage:
            self.stage, self.first, self.began, self.last = state.stage, state.done, now, now
        elif now - self.last >= PLAIN_EVERY:
            self.last = now
            rate = (state.done - self.first) / (now - self.began)
            left = f", {(state.total - state.done) / rate:.0f} s left" if state.total and rate else ""
            print(
                f"{state.stage}: {state.done}/{state.total or '?'}, {state.rejects} rejected, {rate:.1f}/s{left}",
                file=sys.stderr,
                flush=True,
            )
