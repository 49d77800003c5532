"""A process that forks builds and kills them: imports, of whatever a build imports, are paid once. Used by test_faults.py.

    PYTHONPATH=tests python -m support.chaos RAW OUT SEED KILLS

Half of the builds die at a random file operation in their output (any of those that Python audits, so that every stage
is met), half at a random call of any function in any thread. Each is resumed with another number of workers until it is
done, and there are builds until so many have been killed: how many that takes says nothing about the machine. Prints
what happened as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from support.preview import told

from condprep.annotators.registry import specs
from condprep.building import keeping
from condprep.building.build import build
from condprep.dataset import card

EVENTS = {  # -> where the descriptor of the folder stands that a name is relative to
    **{"open": 0, "os.scandir": 0, "shutil.rmtree": 1},
    **{"os.rename": 2, "os.mkdir": 2, "os.remove": 1, "os.rmdir": 1},
}
ANNOTATOR = "canny:random"
OPTIONS: dict[str, Any] = {"resolution": 64, "shard_rows": 3, "validation": 0.3}


def fork(
    act: Callable[[], object], out: Path, watch: Callable[[Callable[[], None]], None], die: int, tell: bool = False
) -> int:
    """`act` in a process of its own that kills itself at the `die`-th thing that `watch` sees; 0: it is left alone.

    tell: how many things there were comes into out.count.
    """
    child = os.fork()
    if child:
        return child
    count = 0

    def counted() -> None:
        nonlocal count
        count += 1
        if count == die:
            os.kill(os.getpid(), signal.SIGKILL)

    if die or tell:
        watch(counted)
    os.fsync = lambda _: None  # who is killed loses nothing that was written, and to wait for the disk takes longest
    try:
        act()
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    sys.setprofile(None)
    if tell:
        out.with_suffix(".count").write_text(json.dumps([count, sorted(sys.modules)]))
    os._exit(0)


def operations(out: Path) -> Callable[[Callable[[], None]], None]:
    """Watches the file operations in a folder."""

    def watch(seen: Callable[[], None]) -> None:
        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in EVENTS and str(out) in _named(event, arguments):
                seen()

        sys.addaudithook(hook)

    return watch


def _named(event: str, arguments: tuple[Any, ...]) -> str:
    """Of what that is, where it is told by a name in a folder that is held open."""
    folder = arguments[EVENTS[event]] if EVENTS[event] else -1
    if isinstance(folder, int) and folder >= 0:
        return os.path.realpath(f"/proc/self/fd/{folder}")
    return str(arguments[0] if arguments else "")


def calls(_: Path) -> Callable[[Callable[[], None]], None]:
    """Watches every call of a function, Python's and C's, in every thread: between two of them is any moment."""

    def watch(seen: Callable[[], None]) -> None:
        def hook(frame: object, event: str, argument: object) -> None:
            if event in ("call", "c_call"):
                seen()

        threading.setprofile(hook)
        sys.setprofile(hook)

    return watch


def killed(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def main(raw: Path, out: Path, seed: int, least: int) -> None:
    keeping.SECONDS = 0.0  # every row that was written is kept at once, so that builds die over that, too
    card.draw_sheet = told
    specs()  # what is installed is looked up once, for all processes that are forked from this one
    rng, most, kills, statuses = random.Random(seed), {}, 0, []
    for kind in (operations, calls):
        whole = out / "whole" / kind.__name__
        act = partial(build, raw, whole, ANNOTATOR, workers=2, **OPTIONS)
        os.waitpid(fork(act, whole, kind(whole), 0, tell=True), 0)
        most[kind], modules = json.loads(whole.with_suffix(".count").read_text())
        for module in modules:
            with suppress(ImportError):  # some are made while others are imported, and have no file
                import_module(module)
    gc.freeze()  # so that looking for garbage copies none of it in each process
    while kills < least:
        folder = out / f"killed{len(statuses)}"
        for attempt in range(4):  # the last attempt is left alone
            kind = rng.choice([operations, calls])
            moment = rng.randint(1, most[kind]) if attempt < 3 else 0
            act = partial(build, raw, folder, ANNOTATOR, workers=rng.choice([1, 3, 4]), **OPTIONS)
            child = fork(act, folder, kind(folder), moment)
            _, status = os.waitpid(child, 0)
            if not killed(status):
                break
            kills += 1
        statuses.append(status)
    print(json.dumps({"kills": kills, "statuses": statuses, "watched": {kind.__name__: n for kind, n in most.items()}}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
