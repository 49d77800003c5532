"""Generations, one after the other: a queue with an end, and the thread that draws."""

from __future__ import annotations

from collections import deque
from threading import Condition, Thread

from PIL import Image

from condprep.annotation.rows import png
from condprep.errors import CondprepError
from trainer.app.drawing import Arm, Drawing
from trainer.app.kept import Generation
from trainer.errors import first_line
from trainer.types import Say

WAITING = 8  # at most
PATIENCE = 10.0  # seconds for which the end waits for the step that is under way


class Busy(CondprepError):
    """As many generations are waiting as may."""


class _Cancelled(Exception):
    """Raised between two steps."""


class Generations:
    """Draws what is asked for in a thread of its own, in the order in which it was asked."""

    def __init__(self, drawing: Drawing, say: Say) -> None:
        self._drawing, self._say = drawing, say
        self._waiting: deque[Generation] = deque()
        self._running: Generation | None = None
        self._closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._work, name="drawing", daemon=True)  # a step may take longer than patience

    def start(self) -> None:
        self._thread.start()

    def add(self, generation: Generation) -> None:
        """Raises Busy where it would be one too many."""
        with self._changed:
            if len(self._waiting) >= WAITING:
                raise Busy(f"{WAITING} generations are waiting already; try again when one of them is done")
            self._waiting.append(generation)
            self._changed.notify()

    def ahead(self, generation: Generation) -> int:
        """How many are drawn before it."""
        with self._changed:
            return self._waiting.index(generation) + (self._running is not None) if generation in self._waiting else 0

    def cancel(self, generation: Generation) -> None:
        """Before its next step. One that has ended stays what it is."""
        with self._changed:
            generation.cancelled.set()
            if generation in self._waiting:
                self._waiting.remove(generation)
                generation.state = "cancelled"

    def close(self) -> None:
        """Cancel all, and wait for the step that is under way."""
        with self._changed:
            self._closed = True
            for generation in [*self._waiting, *filter(None, [self._running])]:
                generation.cancelled.set()
            self._waiting.clear()
            self._changed.notify()
        self._thread.join(PATIENCE)

    def _work(self) -> None:
        while generation := self._next():
            try:
                self._draw(generation)
                generation.state = "done"
            except _Cancelled:
                generation.state = "cancelled"
            except Exception as error:  # whatever a pipeline raises, the page goes on
                self._say(f"a generation failed: {type(error).__name__}: {first_line(error)}")
                generation.problem = _problem(error, generation)
                generation.state = "failed"

    def _next(self) -> Generation | None:
        """Waits for one; None when there will be none."""
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            self._running = self._waiting.popleft()
            self._running.state = "running"
            return self._running

    def _draw(self, generation: Generation) -> None:
        condition, asked = generation.photograph.pair.condition, generation.asked
        generation.steps = self._drawing.steps(condition, asked)

        def stepped() -> None:
            generation.step += 1
            if generation.cancelled.is_set():
                raise _Cancelled

        def drawn(arm: Arm, picture: Image.Image) -> None:
            generation.pictures[arm] = png(picture)

        self._drawing(condition, asked, stepped, drawn)


def _problem(error: Exception, generation: Generation) -> str:
    """For the page, which is told no path of this machine; the terminal has the rest."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        width, height = generation.photograph.pair.condition.size
        return f"there is too little memory for pictures of {width} x {height} px; what else uses the device?"
    return f"the pictures could not be drawn ({type(error).__name__}); the terminal in which the page was started says more"
