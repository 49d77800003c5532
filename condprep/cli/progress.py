"""How far a long call is: a bar in a terminal, a plain line now and then elsewhere, both on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from condprep.runtime.progress import Progress

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
            left = f", {(state.total - state.done) / rate:.0f} s left" if state.total and rate else ""
            print(
                f"{state.stage}: {state.done}/{state.total or '?'}, {state.rejects} rejected, {rate:.1f}/s{left}",
                file=sys.stderr,
                flush=True,
            )
