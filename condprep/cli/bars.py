"""How far a long call is, as a bar in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from condprep.cli.terminal import err
from condprep.runtime.progress import Progress


@contextmanager
def bars() -> Iterator[Callable[[Progress], None]]:
    """A bar that a callback moves."""
    counted = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate()
    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()  # the first moves while a batch takes long
    with RichProgress(*counted, *times, console=err, speed_estimate_period=10) as shown:
        yield _Bars(shown)


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
        rejects = f"{state.rejects} rejected" if state.rejects else ""
        said = ", ".join(filter(None, (state.stage, state.details or rejects)))
        self.bars.update(self.task, completed=state.done, total=state.total, description=said)
