"""What it costs to build in more than one process: engines against each other, the driver against the number of shards, retries.

    python -m bench scale [--pictures 1000] [--rounds 3] [--shards 1000 10000] [--part engines driver retries]

engines   the same canny build by threads, by one and two processes (`--devices`), and by actors of a Ray cluster that is begun
          for it, with the same cores; each in a process of its own. `start` is what passes until the first picture is done,
          and the rate is that of the pictures after it. The ratios are those within a round.
driver    shards that are committed and hold nothing, through real actors: what handing out and collecting costs the driver,
          in time and memory, and what it costs to finish the dataset. A plan of 100 inputs a shard is written and read, too.
retries   the same build where one read in a hundred fails once, against one where none does.
"""

from __future__ import annotations

import argparse
import errno
import logging
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any
from zlib import crc32

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from bench.build import make_pictures
from condprep import build
from condprep.building.plan import Plan, make_plan
from condprep.dataset.layout import Layout, place_files
from condprep.dataset.shards import Counts, ShardWriter
from condprep.engines.local import Threads
from condprep.engines.ray_connect import connected, size_of_actors
from condprep.engines.ray_fleet import Fleet
from condprep.runtime.progress import Progress
from condprep.sources.base import unsaid
from condprep.sources.folder import FolderSource
from condprep.types import Entry, Note

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


@dataclass(frozen=True)
class Empty:
    """A job whose shards hold nothing: they are committed alone."""

    layout: Layout

    @property
    def report(self) -> Empty:
        return self

    def differences(self, other: object) -> list[str]:
        return []

    def open(self, begun: object) -> Empty:
        return self

    def builder(self, told: object, actors: int) -> Empty:
        return self

    def outcomes(self, shards: Iterable[int], threads: Threads) -> Iterator[int]:
        return iter(shards)

    def build_shard(self, shard: int, outcomes: Iterator[int]) -> Counts:
        assert next(outcomes) == shard
        with ShardWriter(self.layout.shard(shard), pa.schema({}), ".arrow", 1) as writer:
            return writer.counts


@dataclass(frozen=True)
class Listing:
    """A source of names alone."""

    inputs: int
    kind = "folder"

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        return (
            Entry(f"{n // 1000:06d}/{n:09d}.jpg", "123456:1700000000000000000", size=123456) for n in range(self.inputs)
        )


def drive(folder: Path, shards: int) -> dict[str, float]:
    """Seconds and megabytes of a driver that hands out so many shards, and finishes the dataset."""
    layout, logged = Layout(folder), logging.getLogger("ray")
    logged.setLevel(logging.ERROR)
    layout.private.mkdir(parents=True)
    seconds: dict[str, float] = {}
    with (
        connected("local") as ray,
        Fleet(ray, Empty(layout), "bench", size_of_actors(ray.nodes(), "cpu", False, 1, 2)) as fleet,
    ):
        fleet.open(None)
        before, began = _megabytes(), time.perf_counter()
        fleet.build_shards(range(shards), lambda *_: None, ())
        seconds["hand out"], megabytes = time.perf_counter() - began, _megabytes() - before
    began = time.perf_counter()
    place_files(
        layout, [Counts.load(layout.shard(shard) / "counts.json") for shard in range(shards)], {}, "parquet", ""
    )
    seconds["finish"] = time.perf_counter() - began
    began = time.perf_counter()
    make_plan(layout.private, Listing(100 * shards), {}, 100, lambda _: None)  # type: ignore[arg-type]
    seconds["plan"] = time.perf_counter() - began
    began = time.perf_counter()
    plan = Plan.load(layout.private)
    assert plan is not None
    for shard in range(0, shards, max(1, shards // 100)):
        plan.entries(shard)
    seconds["entries"] = (time.perf_counter() - began) / min(shards, 100)
    size = (layout.private / "plan.parquet").stat().st_size / 100 / shards
    return {**seconds, "megabytes": megabytes, "peak": _megabytes(), "plan bytes": size}


def _megabytes() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def driver(folder: Path, counts: Sequence[int]) -> Table:
    table = Table(
        "shards",
        "hand out, ms a shard",
        "MB more",
        "finish, ms a shard",
        "plan, us an input",
        "plan, bytes an input",
        "entries, ms",
        "peak MB",
    )
    for count in counts:
        found = elsewhere(drive, folder / f"shards{count}", count)
        table.add_row(
            f"{count:,}",
            f"{1000 * found['hand out'] / count:.2f}",
            f"{found['megabytes']:.0f}",
            f"{1000 * found['finish'] / count:.2f}",
            f"{1e6 * found['plan'] / count / 100:.1f}",
            f"{found['plan bytes']:.1f}",
            f"{1000 * found['entries']:.1f}",
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
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 10000])
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
