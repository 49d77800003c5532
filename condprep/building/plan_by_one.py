"""One of the parts of a build writes the plan, the others wait for it: in a folder by a lock, at a URL by an object."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from condprep.building.parts import Part, plan_lock
from condprep.building.plan import Plan
from condprep.building.retry_rejects import is_retrying
from condprep.dataset.claims import PLANNING
from condprep.dataset.layout import Layout
from condprep.dataset.target import Target
from condprep.errors import BuildFailed
from condprep.runtime.locks import Held, hold
from condprep.runtime.progress import Progress
from condprep.runtime.retry import pause

PATIENCE = 1800  # seconds of this machine's clock in which whoever writes the plan says nothing new
PAUSE, PAUSE_AT_URL = 0.5, 3.0  # seconds between two looks
SAYS = 1.0  # seconds between two things that it says


class Place(Protocol):
    """Where the plan is to be."""

    @property
    def pause(self) -> float: ...
    @property
    def remedy(self) -> str: ...
    def is_planned(self) -> bool: ...
    def held(self) -> AbstractContextManager[Callable[[str], None]]:
        """For who writes it, which then says how far it is. Raises Held."""
        ...

    def said(self) -> str:
        """What it has said last."""
        ...


@dataclass(frozen=True)
class InFolder:
    layout: Layout
    pause: float = PAUSE
    remedy: str = "end that process"

    def is_planned(self) -> bool:
        return Plan.load(self.layout.private) is not None and not is_retrying(self.layout)

    @contextmanager
    def held(self) -> Iterator[Callable[[str], None]]:
        with hold(plan_lock(self.layout), remove=True) as descriptor:
            yield lambda text: _write(descriptor, text)

    def said(self) -> str:
        with suppress(OSError):
            return plan_lock(self.layout).read_text(encoding="utf-8", errors="replace")
        return ""


@dataclass(frozen=True)
class AtUrl:
    layout: Layout
    target: Target
    pause: float = PAUSE_AT_URL

    @property
    def remedy(self) -> str:
        return f"end that process, remove {self.target.remote}/{PLANNING}"

    def is_planned(self) -> bool:
        return Plan.load(self.layout.private) is not None or self.target.fetch_plan(self.layout.root)

    def held(self) -> AbstractContextManager[Callable[[str], None]]:
        return self.target.claims.planning()

    def said(self) -> str:
        return self.target.claims.said()


@contextmanager
def plan_by_one(
    layout: Layout, part: Part | None, progress: Callable[[Progress], None]
) -> Iterator[Callable[[Progress], None]]:
    """In the block the plan is there, or it is written by this process alone; gives who is to be told of that.

    Raises BuildFailed where another process is writing it and does not get on.
    """
    where: Place = AtUrl(layout, layout.target) if layout.target else InFolder(layout)
    heard, since = "", time.monotonic()
    while part and not where.is_planned():
        try:
            with where.held() as say:
                if not where.is_planned():
                    yield _telling(say, progress)
                    return
        except Held:
            said = where.said()
            if said != heard:
                heard, since = said, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise BuildFailed(
                    f"the plan of {layout} does not come: {said or 'another process'} has been writing it and has not "
                    f"got on for {PATIENCE:,} seconds; {where.remedy}, and start the parts again"
                ) from None
            progress(Progress("wait", _listed(said), None))
            pause(where.pause)
    yield progress


def _telling(say: Callable[[str], None], progress: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Who passes on how far the plan is, and says it to the parts that wait for it."""
    last = 0.0

    def tell(state: Progress) -> None:
        nonlocal last
        progress(state)
        if state.stage == "list" and (not last or time.monotonic() - last > SAYS):
            last = time.monotonic()
            say(_text(state.done))

    say(_text(0))
    return tell


def _text(listed: int) -> str:
    return f"process {os.getpid()} on {socket.gethostname()}: {listed:>12}"


def _write(descriptor: int, text: str) -> None:
    os.pwrite(descriptor, text.encode(), 0)


def _listed(said: str) -> int:
    found = re.search(r"[0-9]+$", said)
    return int(found[0]) if found else 0
