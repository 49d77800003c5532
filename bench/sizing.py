"""Hours, GPUs, requests and dollars of builds that are too large to try: figures that were measured, times assumptions that are named.

    python -m bench sizing [--pictures 1e6 1e8 1e9] [--gpus 64] [--markdown]

Nothing is run. MEASURED was measured on a CPU (docs/benchmarks.md); BOUNDS follow from floating point operations and were
never measured on a GPU; ASSUMED are yours to change: edit them, and run it again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from rich.console import Console
from rich.table import Table

MEASURED = {
    "core-milliseconds a picture, canny": 10.0,  # 200 pictures a second on two cores, all of a build
    "core-milliseconds a picture beside a network": 12.0,  # decode, shrink, encode, decode, PNG of grey, Python
    "bytes of a plan, an input": 13.0,
    "microseconds to list an input into a plan": 27.0,
    "driver's megabytes": 115.0,
    "driver's kilobytes a shard": 0.75,
    "driver's milliseconds a shard": 0.3,
}
BOUNDS = {"hed": 2500.0, "depth": 900.0, "openpose": 5900.0}  # pictures a second of an H100 at 400 TFLOP/s, bf16
ASSUMED = {
    "share of a GPU's bound that is reached": 0.5,
    "cores a GPU": 24.0,  # of a machine with eight
    "dollars a GPU-hour, its cores included": 3.90,  # H100, AWS P5 on demand, a survey of March 2026
    "dollars a core-hour without a GPU": 0.045,
    "rows a shard": 1000.0,
    "objects read a picture": 1.0,  # pictures that lie by themselves; of a tar's members each is a range
    "objects written a shard": 4.0,  # rows, rejects, counts, and the manifest
    "bytes stored a picture": 150_000.0,
    "bytes a part of an upload": 16e6,
    "dollars a thousand reads": 0.0004,  # S3 standard, about: put in what yours takes
    "dollars a thousand writes": 0.005,
}


@dataclass(frozen=True)
class Line:
    """What a build takes."""

    pictures: float
    annotator: str
    processors: str
    hours: float
    reads: float
    writes: float
    plan: float  # bytes
    listing: float  # hours
    driver: float  # bytes
    dollars: float

    def cells(self) -> list[str]:
        return [
            f"{self.pictures:,.0f}",
            self.annotator,
            self.processors,
            _time(self.hours),
            f"{self.reads:,.0f}",
            f"{self.writes:,.0f}",
            _bytes(self.plan),
            _time(self.listing),
            _bytes(self.driver),
            f"{self.dollars:,.0f}",
        ]


def line(pictures: float, annotator: str, gpus: int) -> Line:
    """A build on so many GPUs, or for canny on as many cores as come with them."""
    cores = gpus * ASSUMED["cores a GPU"]
    if annotator in BOUNDS:
        by_cores = cores * 1000 / MEASURED["core-milliseconds a picture beside a network"]
        rate = min(gpus * BOUNDS[annotator] * ASSUMED["share of a GPU's bound that is reached"], by_cores)
        price, processors = gpus * ASSUMED["dollars a GPU-hour, its cores included"], f"{gpus} GPUs"
    else:
        rate = cores * 1000 / MEASURED["core-milliseconds a picture, canny"]
        price, processors = cores * ASSUMED["dollars a core-hour without a GPU"], f"{cores:,.0f} cores"
    shards = pictures / ASSUMED["rows a shard"]
    hours = pictures / rate / 3600 + shards * MEASURED["driver's milliseconds a shard"] / 3.6e6
    reads = pictures * ASSUMED["objects read a picture"]
    writes = shards * ASSUMED["objects written a shard"]
    writes += pictures * ASSUMED["bytes stored a picture"] / ASSUMED["bytes a part of an upload"]
    requests = reads * ASSUMED["dollars a thousand reads"] / 1000 + writes * ASSUMED["dollars a thousand writes"] / 1000
    return Line(
        pictures,
        annotator,
        processors,
        hours,
        reads,
        writes,
        pictures * MEASURED["bytes of a plan, an input"],
        pictures * MEASURED["microseconds to list an input into a plan"] / 3.6e9,
        MEASURED["driver's megabytes"] * 1e6 + shards * MEASURED["driver's kilobytes a shard"] * 1e3,
        hours * price + requests,
    )


def lines(pictures: Sequence[float], gpus: int) -> Iterator[Line]:
    for number in pictures:
        for annotator in ("canny", *BOUNDS):
            yield line(number, annotator, gpus)


def _time(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def _bytes(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.0f} MB"


TITLES = [field.name for field in fields(Line)]


def figures() -> list[list[str]]:
    """What it is computed from, a line each."""
    bounds = {f"pictures/s of a GPU at most, {name}": bound for name, bound in BOUNDS.items()}
    kinds = {"measured": MEASURED, "bound": bounds, "assumed": ASSUMED}
    return [[kind, name, f"{value:,.10g}"] for kind, values in kinds.items() for name, value in values.items()]


def markdown(pictures: Sequence[float], gpus: int) -> str:
    """Both tables as docs/scale.md has them."""
    tables = [TITLES, *(one.cells() for one in lines(pictures, gpus))], [["kind", "what", "figure"], *figures()]
    return "\n\n".join(map(_table, tables))


def _table(rows: list[list[str]]) -> str:
    first, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([first, "|" + "---|" * len(rows[0]), *others])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=float, nargs="+", default=[1e6, 1e8, 1e9])
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--markdown", action="store_true", help="as docs/scale.md has it")
    arguments = parser.parse_args()
    if arguments.markdown:
        print(markdown(arguments.pictures, arguments.gpus))
        return
    table = Table(*TITLES)
    for one in lines(arguments.pictures, arguments.gpus):
        table.add_row(*one.cells())
    Console().print(table)
