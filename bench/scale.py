"""What it costs to build in more than one process: engines against each other, the driver against the number of shards, retries.

    python -m bench scale [--pictures 1000] [--rounds 3] [--shards 1000 10000 100000] [--part engines driver retries]

engines   the same canny build by threads, by one and two processes (`--devices`), and by actors of a Ray cluster that is begun
          for it, with the same cores; each in a process of its own. `start` is what passes until the first picture is done,
          and the rate is that of the pictures after it. The ratios are those within a round.
driver    shards that are committed and hold nothing, by a stand-in for the cluster: what handing them out and collecting them
          costs the driver, in computing and memory, and what it costs to finish the dataset.
retries   the same build where one read in a hundred fails once, against one where none does.
"""

from __future__ import annotations

import argparse
import errno
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count, product
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from zlib import crc32

from rich.console import Console
from rich.table import Table

from bench.build import make_pictures
from condprep import build
from condprep.dataset.layout import Layout, place_files
from condprep.dataset.shards import Counts
from condprep.engines.ray_connect import Size
from condprep.engines.ray_fleet import Fleet
from condprep.engines.ray_node import Look
from condprep.runtime.progress import Progress
from condprep.sources.folder import FolderSource
from condprep.types import Entry

ENGINES: Mapping[str, Mapping[str, Any]] = {
    "threads": {},
    "one process": {"devices": "cpu"},
    "two processes": {"devices": "cpu,cpu"},
    "Ray": {"engine": "ray", "address": "local", "actors": 1},
    "Ray, two actors": {"engine": "ray", "address": "local", "actors": 2},
}


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns in a process of its own, whose memory and imports are its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def timed(raw: Path, out: Path, threads: int, how: Mapping[str, Any]) -> dict[str, float]:
    """Seconds until the first pictures are done, and pictures a second from there on."""
    began, seen = time.perf_counter(), list[tuple[float, int]]()

    def progress(state: Progress) -> None:
        if state.stage == "build":
            seen.append((time.perf_counter() - began, state.done))

    workers = threads // how.get("actors", 1) if "engine" in how else threads
    build(raw, out, "canny", workers=workers, progress=progress, shard_rows=100, **how)
    done = [(second, pictures) for second, pictures in seen if pictures]
    (start, first), (end, last) = done[0], next(one for one in done if one[1] == done[-1][1])
    return {"start": start, "rate": (last - first) / (end - start), "seconds": time.perf_counter() - began}


def engines(raw: Path, threads: int, rounds: int) -> Table:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ENGINES}
    for number, (name, how) in product(range(rounds), ENGINES.items()):
        found[name].append(elsewhere(timed, raw, raw.with_name(f"{name}{number}"), threads, how))
    table = Table("engine", "start", "pictures/s after it", "of threads, in the same round")
    for name, runs in found.items():
        ratios = [run["rate"] / other["rate"] for run, other in zip(runs, found["threads"])]
        table.add_row(
            name,
            _spread([run["start"] for run in runs], " s"),
            _spread([run["rate"] for run in runs]),
            _spread(ratios, " x"),
        )
    return table


def _spread(values: Sequence[float], unit: str = "") -> str:
    return f"{median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


class Commits:
    """Stands in for Ray and for an actor, in this process: it commits a shard that holds nothing when it is asked to build one."""

    class exceptions:
        RayError = RayTaskError = KeyError

    def __init__(self, layout: Layout) -> None:
        self._layout, self._answers = layout, dict[int, Any]()
        self._asked = count()

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=partial(self._call, method), options=lambda **_: getattr(self, method))

    def _call(self, method: str, *arguments: Any) -> int:
        reference = next(self._asked)
        self._answers[reference] = {
            "look": Look.here,
            "open": lambda *_: self,
            "build": self._build,
            "done": lambda: (0, 0),
        }.get(method, _none)(*arguments)
        return reference

    def _build(self, shard: int) -> Counts:
        folder, counts = self._layout.shard(shard), Counts()
        folder.mkdir(parents=True)
        (folder / "rejects.jsonl").touch()
        (folder / "counts.json").write_text(json.dumps(vars(counts)))
        return counts

    def nodes(self) -> list[Any]:
        return [{"Alive": True, "Resources": {"CPU": 1}}]

    def differences(self, other: object) -> list[str]:
        return []

    def remote(self, actor: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: self))

    def wait(self, references: list[int], num_returns: int = 1, timeout: float = 0) -> tuple[list[int], list[int]]:
        return references[:num_returns], references[num_returns:]

    def get(self, reference: int) -> Any:
        return self._answers.pop(reference)

    def kill(self, actor: object, no_restart: bool) -> None:
        self._answers.clear()


def _none(*_: object) -> None:
    return None


def drive(folder: Path, shards: int) -> dict[str, float]:
    """Seconds of computing, and megabytes, of a driver that hands out so many shards, and finishes the dataset."""
    layout, seconds = Layout(folder), dict[str, float]()
    layout.private.mkdir(parents=True)
    commits = Commits(layout)
    began, before = time.process_time(), _megabytes()
    for shard in range(shards):
        commits._build(shard)
    committed = time.process_time() - began
    shutil.rmtree(layout.shards)
    began = time.process_time()
    with Fleet(commits, None, "bench", Size(1, gpu=False, actors=1)) as fleet:  # type: ignore[arg-type]
        fleet.open(None)
        fleet.build_shards(range(shards), lambda *_: None, ())
    seconds["hand out"], megabytes = time.process_time() - began - committed, _megabytes() - before
    began = time.process_time()
    place_files(
        layout, [Counts.load(layout.shard(shard) / "counts.json") for shard in range(shards)], {}, "parquet", ""
    )
    seconds["finish"] = time.process_time() - began
    return {**seconds, "commit": committed, "megabytes": megabytes, "peak": _megabytes()}


def _megabytes() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def driver(folder: Path, counts: Sequence[int]) -> Table:
    table = Table("shards", "commit", "hand out", "finish (ms of computing a shard)", "MB more", "peak MB")
    for number in counts:
        found = elsewhere(drive, folder / f"shards{number}", number)
        table.add_row(
            f"{number:,}",
            *(f"{1000 * found[name] / number:.2f}" for name in ("commit", "hand out", "finish")),
            f"{found['megabytes']:.0f}",
            f"{found['peak']:.0f}",
        )
    return table


def with_faults(raw: Path, out: Path, threads: int, one_in: int) -> float:
    """Seconds of a build in which one read in so many fails the first time; none where it is 0."""
    read, failed = FolderSource.read, set[str]()

    def failing(self: FolderSource, entry: Entry) -> Any:
        if one_in and crc32(entry.name.encode()) % one_in == 0 and entry.name not in failed:
            failed.add(entry.name)
            raise OSError(errno.EIO, "Input/output error", entry.name)
        return read(self, entry)

    FolderSource.read = failing  # type: ignore[method-assign]
    began = time.perf_counter()
    result = build(raw, out, "canny", workers=threads)
    assert result.rows["train"] == result.inputs
    return time.perf_counter() - began


def retries(raw: Path, threads: int, rounds: int) -> Table:
    ratios = []
    for number in range(rounds):
        plain, faulty = (elsewhere(with_faults, raw, raw.with_name(f"{n}-{number}"), threads, n) for n in (0, 100))
        ratios.append(faulty / plain)
    table = Table("one read in a hundred fails once", "time, of a build without")
    table.add_row("", _spread(ratios, " x"))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 10000, 100000])
    parts = ("engines", "driver", "retries")
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name) / "raw"
        if {"engines", "retries"} & set(arguments.part):
            make_pictures(raw, arguments.pictures, arguments.threads)
        if "engines" in arguments.part:
            Console().print(engines(raw, arguments.threads, arguments.rounds))
        if "driver" in arguments.part:
            Console().print(driver(Path(name), arguments.shards))
        if "retries" in arguments.part:
            Console().print(retries(raw, arguments.threads, arguments.rounds))
