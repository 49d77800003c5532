"""Every hostile input through the commands that may meet it: how each ended, what it said, how much memory it took.

    PYTHONPATH=tests python -m support.hostile_commands FOLDER [COMMAND ...]

A process for each command, forked from this one so that imports are paid once; it is given one input after another, and the
peak of its memory is set back before each. Prints a line of JSON for each run.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from support.hostile_files import records, sources, tables, tables_of_ours
from support.hostile_pictures import pictures
from support.pictures import smooth

import condprep
from condprep.dataset.arrow import IMAGE

Runs = Iterable[tuple[str, list[str]]]  # the input's name and the command's words
LIMIT = 6 << 30  # bytes of addresses, so that a failure does not take the machine with it
HANGS = 300  # seconds
SIZE = ["--resolution", "64"]


def make(folder: Path) -> None:
    """The inputs, below `in`; somebody's files beside them; a dataset of ours."""
    for name in ("pictures", "tables", "sources", "records", "pairs", "victim", "raw"):
        (folder / "in" / name).mkdir(parents=True)
    (folder / "in" / "victim" / "precious").write_text("precious")
    _pictures(folder / "in" / "pictures")
    for kind, inputs in (("tables", tables()), ("sources", sources())):
        for number, write in enumerate(inputs.values()):
            (place := folder / "in" / kind / f"{number:03d}").mkdir()
            write(place)
    Image.fromarray(smooth(64, 64)).save(folder / "in" / "raw" / "0.png")
    condprep.build(folder / "in" / "raw", folder / "in" / "ds", "canny", resolution=64)
    for number, write in enumerate((records() | tables_of_ours()).values()):
        shutil.copytree(folder / "in" / "ds", folder / "in" / "records" / f"{number:03d}")
        write(folder / "in" / "records" / f"{number:03d}" / ".condprep")


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
    datasets = {name: inputs / "tables" / f"{n:03d}" for n, name in enumerate(tables())} | {
        "pictures as rows": inputs / "pairs"
    }
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


def run_all(runs: Runs, told: Path) -> None:
    """In this process: one after another, and a line for each when it begins and when it has ended."""
    from condprep.cli import main as cli

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    with told.open("w") as lines:
        for name, words in runs:
            print(json.dumps({"begun": name}), file=lines, flush=True)
            Path("/proc/self/clear_refs").write_text("5")
            signal.alarm(HANGS)
            sys.argv, began = ["condprep", *words], time.process_time()
            code, said = run(cli.main)
            found = {"name": name, "code": code, "said": said[-3000:], "seconds": time.process_time() - began}
            print(json.dumps(found | {"bytes": _peak()}), file=lines, flush=True)


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


def _peak() -> int:
    """Bytes that this process had in memory at most since that was set back."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def in_child(act: Callable[[], None]) -> int:
    """How a process ended that does this."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        act()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(folder: Path, *only: str) -> None:
    warnings.simplefilter("ignore")
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    import datasets  # noqa: F401  # once, for all processes that follow

    import condprep.cli.main
    import condprep.curation.curate
    import condprep.reporting.report
    import condprep.verification.verify  # noqa: F401

    if in_child(lambda: make(folder)):
        raise SystemExit("the inputs cannot be made")
    for command, runs in commands(folder).items():
        if only and command not in only:
            continue
        (folder / "out" / command).mkdir(parents=True)
        told = folder / f"{command}.jsonl"
        status = in_child(lambda: run_all(runs(), told))  # noqa: B023
        begun = ""
        for line in map(json.loads, told.read_text().splitlines()):
            begun = line.get("begun", begun)
            if "name" in line:
                print(json.dumps(line | {"command": command}))
        if status:
            print(json.dumps({"command": command, "name": begun, "code": -1, "said": f"ended by {status}", "bytes": 0}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
