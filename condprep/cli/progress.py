"""How far a long call is: a bar in a terminal, a plain line now and then elsewhere, both on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from condprep.runtime.progress import Progress

MINUTES, HOURS = 120, 120  # seconds from which minutes are said, and minutes from which hours are
PLAIN_EVERY = 10.0  # seconds between lines where the output is no terminal; the rate is that of the time between


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """A callback for `condprep.build` and its like."""
    from condprep.cli.terminal import err

    if err.is_terminal:
        from condprep.cli.bars import bars

        with bars() as shown:
            yield shown
    else:
        yield _Lines()


class _Lines:
    def __init__(self) -> None:
        self.stage, self.before, self.last = "", 0, 0.0

    def __call__(self, state: Progress) -> None:
        now = time.monotonic()
        if state.stage != self.stage:
            self.stage, self.before, self.last = state.stage, state.done, now
        elif now - self.last >= PLAIN_EVERY:
            rate = (state.done - self.before) / (now - self.last)
            self.before, self.last = state.done, now
            details = f"{state.rejects} rejected" if state.details is None else state.details
            parts = [f"{state.stage}: {state.done}/{state.total or '?'}", details, f"{rate:.1f}/s"]
            parts += [f"{duration((state.total - state.done) / rate)} left"] if state.total and rate else []
            print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """ "90 s", "12 min" or "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < MINUTES:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < HOURS else f"{minutes // 60} h {minutes % 60} min"
