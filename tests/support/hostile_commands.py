"""Every hostile input through the commands that may meet it: how each ended, what it said, how much memory it took.

    PYTHONPATH=tests python -m support.hostile_commands FOLDER [COMMAND or "COMMAND: INPUT" ...]

A process for each run, forked from this one so that imports are paid once; its peak of memory is the kernel's own figure.
Prints a line of JSON for each.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from support.hostile_files import Write, records, sources, tables, tables_of_ours
from support.hostile_pictures import pictures
from support.pictures import smooth

from condprep.building.build import build
from condprep.dataset.arrow import IMAGE

Runs = Iterable[tuple[str, list[str]]]  # the input's name and the command's words
LIMIT = 8 << 30  # bytes of addresses, of which torch alone takes three: a failure does not take the machine with it
LONGEST = 300  # seconds of a processor
SIZE = ["--resolution", "64"]
ROWS = "pictures as rows"  # the pictures as the rows of a table, beside the same bytes as their maps


def make(folder: Path, wanted: Callable[[str], bool]) -> None:
    """The inputs whose names are wanted, below `in`; somebody's file beside them; a dataset of ours."""
    for name in ("pictures", "tables", "sources", "records", "pairs", "raw"):
        (folder / "in" / name).mkdir(parents=True)
    if wanted("pictures") or wanted(ROWS):
        _pictures(folder / "in" / "pictures")
    for kind, inputs in (("tables", tables()), ("sources", sources())):
        for write, place in _wanted(folder / "in" / kind, inputs, wanted):
            place.mkdir()
            write(place)
    Image.fromarray(smooth(64, 64)).save(folder / "in" / "raw" / "0.png")
    build(folder / "in" / "raw", folder / "in" / "ds", "canny", resolution=64)
    for write, place in _wanted(folder / "in" / "records", records() | tables_of_ours(), wanted):
        shutil.copytree(folder / "in" / "ds", place)
        write(place / ".condprep")


def _wanted(folder: Path, inputs: dict[str, Write], wanted: Callable[[str], bool]) -> Iterator[tuple[Write, Path]]:
    for number, (name, write) in enumerate(inputs.items()):
        if wanted(name):
            yield write, folder / f"{number:03d}"


def _pictures(folder: Path) -> None:
    """As files, and as rows beside the same bytes as their maps."""
    rows = []
    for name, data in pictures().items():
        (folder / name).write_bytes(data)
        rows.append({"image": {"bytes": data, "path": None}, "conditioning_image": {"bytes": data, "path": None}})
    schema = pa.schema({"image": IMAGE, "conditioning_image": IMAGE})
    with pq.ParquetWriter(folder.parent / "pairs" / "train.parquet", schema) as writer:
        for row in rows:
            writer.write_table(pa.Table.from_pylist([row], schema))
    (folder / "x\x1b]0;owned\x07.png").write_bytes(b"")
    (folder / "link.png").symlink_to("/etc/passwd")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(8 << 30)


def commands(folder: Path) -> dict[str, Callable[[], Runs]]:
    """What each command is given."""
    inputs, out = folder / "in", folder / "out"
    files = sorted(str(path) for path in (inputs / "pictures").iterdir())
    datasets = {name: inputs / "tables" / f"{n:03d}" for n, name in enumerate(tables())} | {ROWS: inputs / "pairs"}
    ours = {name: inputs / "records" / f"{n:03d}" for n, name in enumerate(records() | tables_of_ours())}
    few = {name: place for name, place in datasets.items() if not name.endswith("(arrow)")}
    tables_alone = {name: place for name, place in ours.items() if name in tables_of_ours()}
    piles = {name: inputs / "sources" / f"{n:03d}" for n, name in enumerate(sources())}

    def each(places: dict[str, Path], *words: str) -> Iterator[tuple[str, list[str]]]:
        for number, (name, place) in enumerate(places.items()):
            yield name, [word.format(place=place, out=out / words[0] / f"{number:03d}") for word in words]

    build = ("build", "{place}", "-a", "canny", "-o", "{out}", *SIZE)
    return {
        "build": lambda: each(piles | datasets | {"pictures": inputs / "pictures"}, *build),
        "verify": lambda: each(datasets | tables_alone, "verify", "{place}", "--scores", "{out}.parquet"),
        "inspect": lambda: each(datasets | ours, "inspect", "{place}", "--sheet", "{out}.png"),
        "report": lambda: each(
            few | tables_alone, "report", "{place}", "-o", "{out}.html", "--scores", "{out}.parquet"
        ),
        "curate": lambda: each(few | ours, "curate", "{place}", "-o", "{out}", "--drop", "blurry", "--fix"),
        "split": lambda: each(ours, "split", "{place}", "--validation", "0.5"),
        "into": lambda: each(ours, "build", "{place}", "-a", "canny:random", "--into"),
        "annotate": lambda: [
            ("pictures", ["annotate", *files, "-a", "canny", "-o", str(out / "maps")]),
            *each(ours, "annotate", str(inputs / "raw" / "0.png"), "--like", "{place}", "-o", "{out}"),
        ],
    }


def run_one(words: list[str], found: Path) -> None:
    """In this process, to its end. found: where it says what came of it."""
    from condprep.cli import main as cli

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
    sys.argv = ["condprep", *words]
    code, said = run(cli.main)
    found.write_text(json.dumps({"code": code, "said": said[-3000:], "modules": sorted(sys.modules)}))


def run(main: Callable[[], None]) -> tuple[int, str]:
    """How it ended and all that it said; -1 where that is a stack trace."""
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()
            code = -1
    return code, said.getvalue()


def in_child(act: Callable[[], None]) -> tuple[int, int, float]:
    """How a process ended that does this, the most bytes that it had in memory, and how many seconds it computed."""
    child = os.fork()
    if child:
        _, status, used = os.wait4(child, 0)
        return os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024, used.ru_utime + used.ru_stime
    try:
        act()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def runs(folder: Path, only: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """What came of each: {"command", "name", "code", "said", "bytes", "seconds"}; code -1 for a stack trace or a signal."""
    imported: set[str] = set()
    for command, words_of in commands(folder).items():
        (folder / "out" / command).mkdir(parents=True)
        for name, words in words_of():
            if only and not {command, f"{command}: {name}"} & {*only}:
                continue
            found = folder / "found.json"
            found.unlink(missing_ok=True)
            status, peak, seconds = in_child(lambda: run_one(words, found))  # noqa: B023
            ended = json.loads(found.read_text()) if found.exists() else {"code": -1, "said": f"ended by {status}"}
            for module in set(ended.pop("modules", ())) - imported:  # once, for all processes that follow
                imported.add(module)
                with contextlib.suppress(ImportError):
                    import_module(module)
            yield {"command": command, "name": name, "bytes": peak, "seconds": seconds} | ended


def main(folder: Path, *only: str) -> None:
    warnings.simplefilter("ignore")
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    names = {one.partition(": ")[2] for one in only}
    if in_child(lambda: make(folder, lambda name: "" in names or not only or name in names))[0]:
        raise SystemExit("the inputs cannot be made")
    for found in runs(folder, only):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
