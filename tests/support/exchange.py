"""Somebody who exchanges a folder or a file of ours for a link, a moment before a file operation of a command.

    PYTHONPATH=tests python -m support.operations FOLDER exchanged:STRIDE:SEED:SCENARIO,SCENARIO

The scenarios and operations are those of tests/support/crash.py. Before every `stride`-th one, what it is about to touch, a
folder on the way there or any other folder of ours is moved away, and a link takes its name: to a folder elsewhere that holds
the very same names, each of which would be overwritten or removed by a command that follows it. The command may end as it
likes, in words; what lies elsewhere has to be what it was. Prints as JSON, for each scenario, how many operations there are,
how many exchanges were tried, and what went wrong.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import traceback
from hashlib import sha256
from pathlib import Path

from support.crash import DEAF, HANGS, Act, Outcome, Scenario, Watch, counted, in_child

from condprep.errors import CondprepError
from condprep.runtime import retry

REFUSED = 3  # the status of a command that said so


class Exchanging(Watch):
    """Lays a link before the `point`-th operation."""

    def __init__(self, folder: Path, point: int, chosen: random.Random, elsewhere: Path) -> None:
        self.point, self.chosen, self.elsewhere = point, chosen, elsewhere
        super().__init__(folder)

    def happens(self, path: str, event: str) -> None:
        if self.count == self.point:
            work, self.folder = Path(self.folder), DEAF
            exchange(self.chosen.choice(self._of(work, Path(path))), self.elsewhere)

    def _of(self, work: Path, path: Path) -> list[Path]:
        """What may be exchanged: half of the time on the way to that path, but for the folder that the user names."""
        way = [one for one in (path, *path.parents) if work in one.parents and one.parent != work and one.exists()]
        own = [one for one in work.rglob("*") if one.is_dir() and one.parent != work]
        if not way or (own and self.chosen.random() < 0.5):
            return own or [work / "nothing"]
        return way


def exchange(path: Path, elsewhere: Path) -> None:
    """A link to a copy of it takes its name. What that holds is written down."""
    if not path.exists() or path.is_symlink():
        return
    copy = elsewhere / "theirs"
    shutil.copytree(path, copy) if path.is_dir() else shutil.copyfile(path, copy)
    (elsewhere / "said").write_text(json.dumps(content(copy)))
    path.rename(elsewhere / "aside")
    path.symlink_to(copy)


def content(place: Path) -> dict[str, str]:
    """Every name in a folder, with a digest of the file."""
    found = [place, *place.rglob("*")]
    return {str(one): sha256(one.read_bytes()).hexdigest() if one.is_file() else "" for one in sorted(found)}


def attacked(folder: Path, act: Act, point: int, seed: int, elsewhere: Path, said: Path) -> int:
    """The act's status in a process of its own, and what it said into a file."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code, words = 1, ""
    try:
        os.chdir(folder)
        signal.alarm(HANGS)
        retry.PAUSE = 0
        Exchanging(folder, point, random.Random(seed), elsewhere)
        act()
        code = 0
    except (CondprepError, OSError) as error:
        code, words = REFUSED, str(error)
    except BaseException:
        words = traceback.format_exc()
    said.write_text(words)
    os._exit(code)


def harm(scenario: Scenario, folder: Path, stride: int, seed: int) -> Outcome:
    """An exchange before every `stride`-th operation."""
    before, work, whole, elsewhere, said = (folder / name for name in ("before", "work", "whole", "elsewhere", "said"))
    before.mkdir(parents=True)
    for place, act in ((before, scenario.prepare), (whole, scenario.act)):
        if act is scenario.act:
            shutil.copytree(before, whole, symlinks=True)
        if status := in_child(place, act, said):
            raise RuntimeError(f"does not end even when left alone: {status}: {said.read_text()}")
    outcome = Outcome(counted(said))
    for point in range(1 + random.Random(seed).randrange(stride), outcome.operations + 1, stride):
        shutil.copytree(before, work, symlinks=True)
        elsewhere.mkdir()
        status = attacked(work, scenario.act, point, seed + point, elsewhere, said)
        if (elsewhere / "said").exists():
            outcome.points += 1
            theirs, now = json.loads((elsewhere / "said").read_text()), content(elsewhere / "theirs")
            if changed := sorted({*theirs.items()} ^ {*now.items()}):
                outcome.failures.append(f"{point}: elsewhere {[name for name, _ in changed][:4]} changed")
        if status not in (0, REFUSED):
            outcome.failures.append(f"{point}: ended by {status}: {said.read_text()[-1500:]}")
        shutil.rmtree(work)
        shutil.rmtree(elsewhere)
    return outcome
