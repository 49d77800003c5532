"""What a plan costs, whose inputs are only listed: memory and time to write it, to begin again, to read the inputs of a shard.

    python -m bench plan [--inputs 100000 1000000 10000000] [--shard-rows 1000] [--head] [--json]

Nothing is there but names: a source that says `tar00012.tar|000012345.jpg` as often as it is asked, in tars of 10,000, each input with a size
and a time of its own, as loose pictures have them, and with or without a seal of its files by which it is known again without a listing. Each number of inputs has a process of its own, whose peak of memory
is shown. `write` lists the source and writes the plan. `again` is what a build that goes on, or a part of it, does before the
first picture: the plan, its settings, the inputs, and which shards are missing. `by listing` is the same where the source has no seal.
`shard` is the inputs of a shard, in the middle of the plan: the first in a process, which opens the footer, and the others.
--head writes no inputs, only what is read of a plan before them, to see in a moment what going on costs at any number.
Seconds are those of the processor, so that others on the machine count little; --wall shows those of the clock.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from condprep import __version__
from condprep.building.plan import Plan, check_config, check_inputs, make_plan
from condprep.dataset.layout import Layout
from condprep.runtime.files import commit_json, read_json
from condprep.sources.base import unsaid
from condprep.types import Entry, Note, Sample

IN_A_TAR = 10_000
CONFIG = {"condprep": __version__}


@dataclass(frozen=True)
class Listing:
    """So many inputs, of which there is nothing but the names."""

    inputs: int
    sealed: bool
    kind: str = "webdataset"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "inputs": self.inputs}

    def seal(self) -> str | None:
        """As tars have one: of the status of each."""
        return str(hash(tuple(range(self.inputs // IN_A_TAR)))) if self.sealed else None

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        text = ("a photograph of something",)
        for number in range(self.inputs):
            tar, member = divmod(number, IN_A_TAR)
            size = 20_000 + number * 2654435761 % 900_000
            time = 17 * 10**17 + number * 10**7 + number * 2246822519 % 10**7
            yield Entry(f"tar{tar:05d}.tar|{number:09d}.jpg", f"{size}:{time}", member << 17, size, text)

    def read(self, entry: Entry) -> Sample:
        raise NotImplementedError("a listing has no pictures")


def measure(folder: Path, inputs: int, shard_rows: int, head: bool, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds and MB; to be called in a process of its own for each."""
    source, layout = Listing(inputs, True), Layout(folder)
    layout.private.mkdir(parents=True)
    found: dict[str, float] = {"inputs": inputs}

    def timed(name: str, do: Callable[[], Any]) -> Any:
        began = clock()
        result = do()
        found[name] = clock() - began
        return result

    def again(source: Listing) -> Plan:
        plan = Plan.load(layout.private)
        assert plan is not None
        check_config(plan, CONFIG)
        check_inputs(plan, source)
        assert len(layout.missing(plan.shards)) == plan.shards
        return plan

    if head:
        write_head(layout.private, source, shard_rows)
        timed("again", lambda: again(source))
        return found | {"MB": peak()}
    timed("write", lambda: make_plan(layout.private, source, CONFIG, shard_rows, lambda _: None))
    plan = timed("again", lambda: again(source))
    timed("first shard", lambda: plan.entries(plan.shards // 2))
    timed("ten shards", lambda: [plan.entries(plan.shards // 2 - number) for number in range(10)])
    found["shard"] = found.pop("ten shards") / 10
    timed("by listing", lambda: again(Listing(inputs, False)))
    found["MB"] = peak()
    found["MB on disk"] = sum(path.stat().st_size for path in layout.private.glob("plan*")) / 1e6
    return found


def write_head(folder: Path, source: Listing, shard_rows: int) -> None:
    """As if the source had been listed."""
    make_plan(folder, Listing(1, True), CONFIG, shard_rows, lambda _: None)
    plan, listed = read_json(folder / "plan.json"), read_json(folder / "seal.json")
    commit_json(folder / "plan.json", plan | {"inputs": source.inputs})
    commit_json(folder / "seal.json", listed | {"seal": source.seal()})


def peak() -> float:
    """MB that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--shard-rows", type=int, default=1000)
    parser.add_argument(
        "--head", action="store_true", help="write no inputs: only what a build that goes on reads first"
    )
    parser.add_argument("--wall", action="store_true", help="seconds of the clock")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for inputs in options.inputs:
        with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
            clock = time.perf_counter if options.wall else time.process_time
            results.append(pool.apply(measure, (Path(folder) / "ds", inputs, options.shard_rows, options.head, clock)))
    if options.json:
        print(json.dumps(results, indent=2))
        return
    table = Table(*results[0], box=None)
    for result in results:
        table.add_row(*(f"{value:,.4g}" if name != "inputs" else f"{value:,}" for name, value in result.items()))
    Console().print(table)


if __name__ == "__main__":
    main()
