"""How near a build comes to what its device and its workers allow: the real pipeline, in which the work is to sleep.

    python -m bench schedule [--device 600 1250 2500] [--annotators 1 2 4] [--workers 16] [--stop 0.25] [--json]

Pictures are not decoded, networks not run and maps not encoded: each sleeps for the milliseconds that are given, which needs no
core, so that sixteen workers and a fast device are there on any machine. Everything else is what `condprep build` runs: the plan,
the threads, batches of pictures of one shape in 17 buckets, shards that are written, and a writer that stops at each of them.

The ideal is the slower of the device and the workers, with the sleeps as long as they really were: where the machine has other
work, one that sleeps is woken late. Both are compared between the first and the last tenth of the pictures.
`busy` is the share of that time in which the device had work; `own ms` is what a picture costs in computing all the same, which
is Python's own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from condprep.annotators import batches
from condprep.building import device_stage, picture
from condprep.building.begin import begin
from condprep.building.options import parse_options
from condprep.building.shard import ShardBuilder
from condprep.dataset.layout import Layout
from condprep.dataset.shards import ShardWriter
from condprep.engines.local import build_shards
from condprep.images import geometry
from condprep.images.decode import Picture
from condprep.images.geometry import buckets
from condprep.runtime.torch_threads import one_torch_thread
from condprep.sources.base import unsaid
from condprep.types import Entry, Maps, Note, Sample
from condprep.weights.find import Weights

BATCH = 32
SIDE = 64  # a scale model: shapes and batches are those of 512 px, an eighth as wide, so that no time goes into copying pixels
SHAPES = tuple((height // 8, width // 8) for height, width in buckets(8 * SIDE))


@dataclass(frozen=True)
class Times:
    """What sleeps how long."""

    device: float  # pictures a second, through all annotators
    annotators: int
    workers: int
    prepare: float  # milliseconds a picture: read, decode, resize, encode
    encode: float  # milliseconds a map
    stop: float  # seconds a shard, of the writer

    @property
    def ideal(self) -> float:
        """Pictures a second, were everybody woken in time."""
        return min(self.device, 1000 * self.workers / (self.prepare + self.annotators * self.encode))


class Workers:
    """How long they slept, all together."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def work(self, seconds: float) -> None:
        begin = time.perf_counter()
        time.sleep(seconds)
        self.slept.append(time.perf_counter() - begin)


@dataclass(frozen=True)
class Pictures:
    """A source of pictures without bytes, in all shapes in turn, or in one."""

    count: int
    shapes: int
    kind = "folder"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "count": self.count}

    def entries(self, note: Note = unsaid) -> Iterator[Entry]:
        order = np.random.default_rng(0).integers(len(SHAPES), size=self.count)
        for number, shape in enumerate(order):
            chosen = int(shape) if self.shapes > 1 else SHAPES.index((SIDE, SIDE))
            yield Entry(f"{number:06d}.png", "", offset=chosen, size=1, text=("",))

    def read(self, entry: Entry) -> Sample:
        return Sample(entry.name, bytes([entry.offset]) + entry.name.encode())


class Device:
    """When it worked, for how many pictures."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float, int]] = []  # begin, end, pictures

    def work(self, seconds: float, pictures: int) -> None:
        begin = time.perf_counter()
        time.sleep(seconds)
        self.calls.append((begin, time.perf_counter(), pictures))


class Sleeping:
    """A network that sleeps."""

    variant, device, batch_size, binary, columns = "", "cpu", BATCH, False, {}  # type: ignore[var-annotated]
    provenance: Mapping[str, Any] = {"parameters": {}, "weights": {}, "licence": "none", "commercial": True}

    def __init__(self, name: str, times: Times, on: Device, counted: bool) -> None:
        self.name, self._on, self._counted = name, on, counted
        self._seconds = 1 / times.device / times.annotators

    def __call__(self, rgb: torch.Tensor, keys: Sequence[str]) -> Maps:
        self._on.work(self._seconds * len(rgb), len(rgb) * self._counted)
        return Maps(torch.zeros(len(rgb), 1, *rgb.shape[2:], dtype=torch.uint8))


def stand_ins(times: Times, workers: Workers) -> ExitStack:
    """The steps that sleep, in the place of those that compute."""
    blank = [np.zeros((*shape, 3), np.uint8) for shape in SHAPES]
    commit = ShardWriter.commit

    def decode(data: bytes, **_: Any) -> Picture:
        workers.work(times.prepare / 1000)
        rgb = blank[data[0]]
        return Picture(rgb, rgb.shape[:2], pristine=True)

    def encode_map(pixels: np.ndarray, binary: bool) -> bytes:
        workers.work(times.encode / 1000)
        return b""

    def slow(writer: ShardWriter) -> None:
        time.sleep(times.stop)
        commit(writer)

    stack = ExitStack()
    stack.enter_context(one_torch_thread())  # as where networks are on a GPU
    for remembered in (geometry.buckets, geometry.nearest_bucket):
        stack.callback(remembered.cache_clear)
        remembered.cache_clear()
    stack.enter_context(patch.object(geometry, "MULTIPLE", geometry.MULTIPLE // 8))
    stack.enter_context(patch.object(batches, "REFERENCE_SIDE", SIDE))
    stack.enter_context(patch.object(device_stage, "REFERENCE_SIDE", SIDE))
    stack.enter_context(patch.object(picture, "decode", decode))
    stack.enter_context(patch.object(picture, "encode_map", encode_map))
    stack.enter_context(patch.object(ShardWriter, "commit", slow))
    return stack


def measure(times: Times, pictures: int, shapes: int) -> dict[str, float]:
    """Pictures a second, and the share of the time in which the device worked."""
    device, workers, cpu = Device(), Workers(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, stand_ins(times, workers):
        builder = _builder(Path(folder), Pictures(pictures, shapes), times, device)
        build_shards(builder, builder.pending, times.workers)
    cpu = time.process_time() - cpu
    done = np.cumsum([one[2] for one in device.calls])
    first, last = (int(np.searchsorted(done, share * pictures)) for share in (0.1, 0.9))
    begin, end = device.calls[first][1], device.calls[last][1]
    rate = float(done[last] - done[first]) / (end - begin)
    working = [call[1] - call[0] for call in device.calls]
    ideal = min(pictures / sum(working), times.workers * pictures / sum(workers.slept))
    return {
        "ideal": ideal,
        "rate": rate,
        "of_ideal": rate / ideal,
        "busy": sum(working[first + 1 : last + 1]) / (end - begin),
        "batch": pictures / sum(call[2] > 0 for call in device.calls),
        "own_ms": 1000 * cpu / pictures,
    }


def _builder(folder: Path, source: Pictures, times: Times, device: Device) -> ShardBuilder:
    layout = Layout(folder)
    layout.private.mkdir(parents=True)
    options = parse_options("canny", fit="bucket", resolution=SIDE, batch_size=BATCH)
    names = [options.condition, *(f"further{n}" for n in range(1, times.annotators))]
    annotators = {name: Sleeping(name, times, device, counted=name == names[0]) for name in names}
    with patch("condprep.building.load_annotators.load_annotators", lambda *_: annotators):
        builder = begin(layout, source, options, device="cpu", weights=Weights(), progress=lambda _: None)
    assert builder is not None
    return builder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=float, nargs="+", default=[600, 1250, 2500], help="pictures a second")
    parser.add_argument("--annotators", type=int, nargs="+", default=[1, 2, 4], help="that share the device")
    parser.add_argument("--shapes", type=int, nargs="+", choices=(1, len(SHAPES)), default=[len(SHAPES)])
    parser.add_argument("--stop", type=float, nargs="+", default=[0.25], help="seconds that the writer stops a shard")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--prepare", type=float, default=9.0, help="milliseconds: read, decode, resize, encode")
    parser.add_argument("--encode", type=float, default=2.7, help="milliseconds a map")
    parser.add_argument(
        "--slow", type=float, default=1, help="so many times as slow, for a machine that is busy: the same schedule"
    )
    parser.add_argument("--seconds", type=float, default=8, help="that a run takes where it is ideal")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    runs = []
    for device, annotators, stop, shapes in product(given.device, given.annotators, given.stop, given.shapes):
        slow = given.slow
        times = Times(device / slow, annotators, given.workers, given.prepare * slow, given.encode * slow, stop * slow)
        measured = measure(times, int(times.ideal * given.seconds), shapes)
        runs.append(asdict(times) | {"shapes": shapes} | measured)
    print(json.dumps(runs, indent=2)) if given.json else show(runs)


def show(runs: Sequence[Mapping[str, float]]) -> None:
    table = Table(
        "device", "annotators", "shapes", "stop", "ideal", "pictures/s", "of the ideal", "busy", "a batch", "own ms"
    )
    for run in runs:
        table.add_row(
            f"{run['device']:.0f}/s",
            str(run["annotators"]),
            str(run["shapes"]),
            f"{run['stop']:g} s",
            f"{run['ideal']:.0f}/s",
            f"{run['rate']:.0f}",
            f"{run['of_ideal']:.1%}",
            f"{run['busy']:.1%}",
            f"{run['batch']:.1f}",
            f"{run['own_ms']:.2f}",
        )
    Console(width=110).print(table)
