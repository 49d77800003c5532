"""`--part I/N`: several processes, on one machine or on many, build shards of one plan in one folder.

Part I does the shards I, I + N, I + 2 N, ... of the plan. Whichever comes first writes the plan, and the others go by it; nothing
else is shared. `finish` makes the dataset once all shards are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from condprep.dataset.layout import Layout
from condprep.errors import DatasetError, UsageError
from condprep.runtime.locks import Held, hold, is_held
from condprep.runtime.own import remove


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
        remove(part.lock(layout), missing_ok=True)
    remove(plan_lock(layout), missing_ok=True)


def plan_lock(layout: Layout) -> Path:
    """The file that the part holds which writes the plan, where it says how far it is."""
    return layout.private / "plan.lock"
