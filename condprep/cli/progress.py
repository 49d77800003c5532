"""How far a long call is: a bar in a terminal, a plain line now and then elsewhere, both on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from condprep.runtime.progress import Progress

MINUTES, HOURS = 120, 120  # seconds from which minutes are said, and minutes from which hours are
PLAIN_EVERY = 10.0  # seconds between lines where the output is no terminal


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """A callback for `condprep.build` and its like."""
    from condprep.cli.terminal import err

    if err.is_terminal:
        from condprep.cli.bars import bars

        with bars() as shown:
            yield shown
    else:
        with _lines() as lines:
            yield lines


@contextmanager
def _lines() -> Iterator[Lines]:
    """Lines by a clock of their own, since news comes in bursts: a batch, a shard at a time."""
    lines, over, began = Lines(), threading.Event(), time.monotonic()

    def beat() -> None:
        for number in count(1):
            if over.wait(max(0.0, began + number * PLAIN_EVERY - time.monotonic())):
                return
            lines.beat(time.monotonic())

    clock = threading.Thread(target=beat, name="condprep-progress", daemon=True)
    clock.start()
    try:
        yield lines
    finally:
        over.set()
        clock.join()
    lines.end(time.monotonic())


@dataclass
class _Stage:
    """What is known of a stage: when it was somewhere, as (seconds, done), and where it is."""

    state: Progress
    seen: list[tuple[float, int]]

    def rate(self, now: float) -> float:
        """Of the time since the last line, or since an earlier one where nothing was finished in it."""
        earlier = (one for one in reversed(self.seen) if one[0] < now and one[1] < self.state.done)
        at, done = next(earlier, self.seen[0])
        return (self.state.done - done) / (now - at) if now > at else 0.0


class Lines:
    """Says where a call is whenever its clock beats, and at the end how long what took longest has taken."""

    def __init__(self) -> None:
        self._stages: list[_Stage] = []
        self._said = False

    def __call__(self, state: Progress) -> None:
        """News, from any thread."""
        if not self._stages or state.stage != self._stages[-1].state.stage:
            self._stages.append(_Stage(state, [(time.monotonic(), state.done)]))
        self._stages[-1].state = state

    def beat(self, now: float) -> None:
        if not self._stages:
            return
        stage = self._stages[-1]
        state, rate = stage.state, stage.rate(now)
        left = [f"{duration((state.total - state.done) / rate)} left"] if state.total and rate else []
        _say(state, f"{rate:.1f}/s", *left)
        stage.seen.append((now, state.done))
        self._said = True

    def end(self, now: float) -> None:
        """A line of totals, where there were others."""
        if not self._said:
            return
        ends = [*(stage.seen[0][0] for stage in self._stages[1:]), now]
        took, made = Counter[str](), Counter[str]()
        for stage, end in zip(self._stages, ends):  # one may come again: updates, a validation, updates
            took[stage.state.stage] += end - stage.seen[0][0]  # type: ignore[assignment]  # a Counter adds up seconds, too
            made[stage.state.stage] += stage.state.done - stage.seen[0][1]
        name, seconds = took.most_common(1)[0]
        last = next(stage.state for stage in reversed(self._stages) if stage.state.stage == name)
        rate = made[name] / seconds if seconds else 0.0
        _say(last, f"{rate:.1f}/s on average", f"took {duration(seconds)}")


def _say(state: Progress, *further: str) -> None:
    details = f"{state.rejects} rejected" if state.details is None else state.details
    counted = f"{state.stage}: {state.done}/{state.total or '?'}"
    print(", ".join(filter(None, [counted, details, *further])), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """ "90 s", "12 min" or "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < MINUTES:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < HOURS else f"{minutes // 60} h {minutes % 60} min"
