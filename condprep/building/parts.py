"""`--part I/N`: several processes, on one machine or on many, build shards of one plan in one folder.

Part I does the shards I, I + N, I + 2 N, ... of the plan. Whichever comes first writes the plan, and the others go by it; nothing
else is shared. `finish` makes the dataset once all shards are there.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from condprep.building.plan import Plan
from condprep.building.retry_rejects import is_retrying
from condprep.dataset.layout import Layout
from condprep.errors import BuildFailed, DatasetError, UsageError
from condprep.runtime.locks import Held, hold, is_held
from condprep.runtime.progress import Progress
from condprep.runtime.retry import pause

PATIENCE = 1800  # seconds of this machine's clock in which whoever writes the plan says nothing new
PAUSE = 0.5  # between two looks
SAYS = 1.0  # seconds between two things that it says


@dataclass(frozen=True)
class Part:
    """One of `of` parts of a build, counted from 0."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def shards(self, shards: int) -> range:
        """Its own of so many."""
        return range(self.number, shards, self.of)

    def lock(self, layout: Layout) -> Path:
        """The file that it holds while it builds, and that says that it was begun until the dataset is finished."""
        return layout.private / f"part-{self.number}-of-{self.of}.lock"


def parse_part(part: str | tuple[int, int] | None) -> Part | None:
    """ "0/4" or (0, 4). Raises UsageError for what is none."""
    if part is None:
        return None
    text = part if isinstance(part, str) else "/".join(map(str, part))
    if not (found := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)):
        raise UsageError(f"--part {text!r} is not of the form I/N, as 0/4 for the first of four parts")
    number, of = int(found[1]), int(found[2])
    if of == 0:
        raise UsageError(f"--part {text}: a build in 0 parts is none; --part 0/1 is all of it")
    if number >= of:
        raise UsageError(
            f"--part {text}: parts are counted from 0, so of {of} the last is {of - 1}/{of}; "
            f"of a SLURM array, take --array=0-{of - 1}"
        )
    return Part(number, of)


def refuse_with_part(part: Part | None, given: dict[str, bool]) -> None:
    """Raises UsageError for an option, as `given`, that concerns what other parts do."""
    for option, is_given in given.items() if part else ():
        if is_given:
            raise UsageError(
                f"{option} concerns the whole dataset, and --part {part} builds a part of it; {_REMEDY[option]}"
            )


_REMEDY = {
    "--format webdataset": "build it in one, or parts of --format parquet",
    "--overwrite": "remove the folder before the first part begins",
    "--retry-rejects": "finish the dataset, then give it to a build without --part",
    "--append": "leave out --part",
    "--max-rejects": "give it to `condprep finish`",
}


@contextmanager
def hold_part(layout: Layout, part: Part) -> Iterator[None]:
    """One process a part, and no other division beside it. Raises DatasetError."""
    try:
        with hold(part.lock(layout)):
            for other in begun_parts(layout):
                if other.of != part.of and is_held(other.lock(layout)):
                    raise DatasetError(f"part {other} is building {layout.root}: all parts are of {other.of}, or none")
            yield
    except Held:
        raise DatasetError(f"another process is building part {part} of {layout.root}; wait for it") from None


def begun_parts(layout: Layout) -> list[Part]:
    """Those that were begun since the dataset was, in order."""
    found = [
        re.fullmatch(r"part-(\d{1,9})-of-(\d{1,9})\.lock", path.name) for path in layout.private.glob("part-*.lock")
    ]
    return sorted((Part(int(one[1]), int(one[2])) for one in found if one), key=lambda part: (part.of, part.number))


def forget_parts(layout: Layout) -> None:
    """The dataset is finished, or a build without parts goes on with it."""
    for part in begun_parts(layout):
        part.lock(layout).unlink(missing_ok=True)
    _plan_lock(layout).unlink(missing_ok=True)


@contextmanager
def plan_by_one(
    layout: Layout, part: Part | None, progress: Callable[[Progress], None]
) -> Iterator[Callable[[Progress], None]]:
    """In the block the plan is there, or it is written by this process alone; gives who is to be told of that.

    Raises BuildFailed where another process is writing it and does not get on.
    """
    path = _plan_lock(layout)
    heard, since = "", time.monotonic()
    while part and not _is_planned(layout):
        try:
            with hold(path, remove=True) as descriptor:
                if not _is_planned(layout):
                    yield _told(descriptor, progress)
                    return
        except Held:
            said = _said(path)
            if said != heard:
                heard, since = said, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise BuildFailed(
                    f"the plan of {layout.root} does not come: {said or 'another process'} has been writing it and has not "
                    f"got on for {PATIENCE:,} seconds; end that process, and start the parts again"
                ) from None
            progress(Progress("wait", _listed(said), None))
            pause(PAUSE)
    yield progress


def _plan_lock(layout: Layout) -> Path:
    return layout.private / "plan.lock"


def _is_planned(layout: Layout) -> bool:
    return Plan.load(layout.private) is not None and not is_retrying(layout)


def _told(descriptor: int, progress: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Who passes on how far the plan is, and says it to the parts that wait for it."""
    last = 0.0

    def say(listed: int) -> None:
        nonlocal last
        if not last or time.monotonic() - last > SAYS:
            last = time.monotonic()
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}: {listed:>12}".encode(), 0)

    def tell(state: Progress) -> None:
        progress(state)
        if state.stage == "list":
            say(state.done)

    say(0)
    return tell


def _said(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _listed(said: str) -> int:
    found = re.search(r"[0-9]+$", said)
    return int(found[0]) if found else 0
