"""Pictures per second and peak memory of a canny build at 512, against what people do today, in one run.

    python -m bench build [--pictures 2000] [--megapixels 1] [--threads 2] [--rounds 3] [--against CHECKOUT] [--json]

Makes JPEGs of about 1 Mpx (or as cameras make them, 12 and 24) from real photographs, then times, each in a process of its own and with the same cores:

    condprep     `condprep build raw/ --annotator canny --out ds/`, all of it, start-up included
    bare stages  read, decode, resize, canny, encode, write in as many threads, and nothing else
    peer         datasets' imagefolder + map(controlnet_aux's CannyDetector, num_proc) + save_to_disk, start-up included;
                 it adds a map to each picture and leaves the picture at its size
    peer, fitted the same, but written so that it stores the rows that condprep stores: pictures cropped to 512 x 512 px
    earlier      with --against: condprep as it is in another checkout of it, with the same packages

and prints what every stage costs. Speeds on shared machines wander: everything is run in several rounds, the ratios are
those within a round, and the median is shown with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import compileall
import io
import json
import math
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from bench import CHECKOUT, SHARED, environment

SIZE = 512


def photographs() -> list[Image.Image]:
    """Real photographs: scikit-image's, and those of the shared test data where they are at hand."""
    from skimage import data

    own = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")]
    own += [Image.fromarray(picture) for picture in data.stereo_motorcycle()[:2]]
    return own + [Image.open(path).convert("RGB") for path in sorted(SHARED.glob("data/*/*.jpg"))]


def make_pictures(folder: Path, count: int, processes: int = 1, megapixels: float = 1) -> None:
    """JPEGs in varied aspects: crops of the photographs, enlarged, with the noise that sensors have."""
    folder.mkdir(parents=True)
    parts = [range(first, count, processes) for first in range(processes)]
    if processes == 1:
        draw_pictures(folder, megapixels, parts[0])
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(partial(draw_pictures, folder, megapixels), parts))


def draw_pictures(folder: Path, megapixels: float, numbers: Sequence[int]) -> None:
    """Those of these numbers: each is drawn by its own."""
    sources = photographs()
    side = math.ceil(1400 * math.sqrt(megapixels))
    noise = np.random.default_rng(0).normal(0, 2, (side, side, 3)).astype(np.float32)
    for number in numbers:
        rng = random.Random(number)
        picture = rng.choice(sources)
        aspect = rng.choice([1, 4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9])
        width, height = round((1e6 * megapixels * aspect) ** 0.5), round((1e6 * megapixels / aspect) ** 0.5)
        scale = rng.uniform(0.6, 1) * min(picture.width / width, picture.height / height)
        left = rng.uniform(0, picture.width - width * scale)
        top = rng.uniform(0, picture.height - height * scale)
        box = (left, top, left + width * scale, top + height * scale)
        enlarged = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box), np.float32)
        noisy = (enlarged + noise[:height, :width]).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05d}.jpg", quality=90)


def run_bare(raw: Path, out: Path, threads: int) -> None:
    """The stages and nothing else: no plan, no key, no checks, no resume."""
    from concurrent.futures import ThreadPoolExecutor

    import cv2
    import pyarrow as pa

    from condprep.annotators.canny import canny
    from condprep.images.decode import decode
    from condprep.images.encode import encode_map, encode_picture
    from condprep.images.geometry import Geometry, resize
    from condprep.runtime.malloc import keep_freed_memory

    keep_freed_memory()
    cv2.setNumThreads(1)
    geometry = Geometry(SIZE)

    def work(path: Path) -> dict[str, bytes]:
        picture = decode(path.read_bytes(), reduction=geometry.reduction)
        rgb = resize(picture.rgb, geometry.place(picture.size), picture.grid)
        return {"image": encode_picture(rgb), "map": encode_map(canny(rgb, 100, 200), binary=True)}

    out.mkdir()
    schema = pa.schema({"image": pa.binary(), "map": pa.binary()})
    with ThreadPoolExecutor(threads) as pool, pa.ipc.new_stream(str(out / "data.arrow"), schema) as sink:
        rows = []
        for row in pool.map(work, sorted(raw.iterdir())):
            rows.append(row)
            if len(rows) == 100:
                sink.write_batch(pa.RecordBatch.from_pylist(rows, schema))
                rows = []
        sink.write_batch(pa.RecordBatch.from_pylist(rows, schema))


def run_peer(raw: Path, out: Path, threads: int, fit: bool = False) -> None:
    """What a careful user writes today."""
    from controlnet_aux.canny import CannyDetector
    from datasets import load_dataset

    detector = CannyDetector()

    def annotate(row: dict[str, Any]) -> dict[str, Any]:
        picture = row["image"]
        if not fit:
            return {"conditioning_image": detector(picture, detect_resolution=SIZE, image_resolution=SIZE)}
        picture = ImageOps.fit(picture.convert("RGB"), (SIZE, SIZE), Image.Resampling.BICUBIC)
        edges = detector(picture, detect_resolution=SIZE, image_resolution=SIZE)
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=95, subsampling=0)
        return {"image": {"bytes": encoded.getvalue(), "path": None}, "conditioning_image": edges}

    rows = load_dataset("imagefolder", data_dir=str(raw), split="train", cache_dir=str(out) + ".cache")
    rows.map(annotate, num_proc=threads).save_to_disk(str(out))


RUNS: dict[str, Callable[[Path, Path, int], None]] = {
    "bare stages": run_bare,
    "peer": run_peer,
    "peer, fitted": partial(run_peer, fit=True),
}


def measure(name: str, raw: Path, out: Path, threads: int, checkout: Path = CHECKOUT) -> dict[str, float]:
    """Pictures a second and peak memory (MB, all processes; pages shared by several are counted in each) of a run."""
    command = [sys.executable, "-m", "bench", "build", "--run", name, "--raw", raw, "--out", out, "--threads", threads]
    if name not in RUNS:
        command = [sys.executable, "-m", "condprep", "build", raw, "--out", out, "-a", "canny", "--workers", threads]
    os.sync()  # or what the run before has written is timed, too
    for picture in filter(Path.is_file, raw.rglob("*")):
        picture.read_bytes()  # from now on in the system's cache, for everybody
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=checkout,
        env=environment(PYTHONPATH=str(checkout)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while process.returncode is None:
        peak = max(peak, resident(process.pid))
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.3)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{process.stderr.read().decode()}")  # type: ignore[union-attr]
    pictures = sum(path.is_file() for path in raw.rglob("*"))
    return {"pictures_per_second": pictures / seconds, "peak_mb": peak / 1e6}


def resident(pid: int) -> int:
    try:
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)])
    except psutil.Error:
        return 0


def stage_costs(raw: Path) -> dict[str, float]:
    """Milliseconds a picture of every stage, in one thread."""
    from condprep.annotators.canny import canny
    from condprep.images.decode import decode
    from condprep.images.encode import encode_map, encode_picture
    from condprep.images.geometry import Geometry, resize

    geometry = Geometry(SIZE)
    stages: dict[str, Callable[[Any], Any]] = {
        "read": lambda path: path.read_bytes(),
        "decode": partial(decode, reduction=geometry.reduction),
        "resize": lambda picture: resize(picture.rgb, geometry.place(picture.size), picture.grid),
        "canny": lambda rgb: (rgb, canny(rgb, 100, 200)),
        "encode picture": lambda both: (encode_picture(both[0]), both[1]),
        "encode map": lambda both: encode_map(both[1], binary=True),
    }
    return timed(stages, sorted(raw.iterdir())[:200])


def timed(stages: Mapping[str, Callable[[Any], Any]], things: Sequence[Any]) -> dict[str, float]:
    """Milliseconds a thing of every stage, one after the other in one thread; a stage takes what the one before returns."""
    import cv2

    from condprep.runtime.malloc import keep_freed_memory

    keep_freed_memory()
    cv2.setNumThreads(1)
    costs = dict.fromkeys(stages, 0.0)
    for number, value in enumerate([*things[:20], *things]):  # the first ones warm up
        costs = dict.fromkeys(stages, 0.0) if number == len(things[:20]) else costs
        for name, stage in stages.items():
            began = time.perf_counter()
            value = stage(value)
            costs[name] += (time.perf_counter() - began) * 1000
    return {name: cost / len(things) for name, cost in costs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--megapixels", type=float, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of condprep")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--raw", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        RUNS[arguments.run](arguments.raw, arguments.out, arguments.threads)
        return
    checkouts = {"condprep": CHECKOUT} | ({"earlier": arguments.against.resolve()} if arguments.against else {})
    for checkout in checkouts.values():
        compileall.compile_dir(checkout / "condprep", quiet=1)  # as pip does it with what it installs
    runs = {name: partial(measure, name, checkout=checkouts.get(name, CHECKOUT)) for name in (*checkouts, *RUNS)}
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "out"
        make_pictures(raw, arguments.pictures, megapixels=arguments.megapixels)
        for _ in range(arguments.rounds):
            rounds.append({name: run(raw, out / name, arguments.threads) for name, run in runs.items()})
            shutil.rmtree(out)
        costs = stage_costs(raw)
    if arguments.json:
        print(json.dumps({"rounds": rounds, "stages_ms": costs}, indent=2))
    else:
        show(rounds, costs)


def show(rounds: Sequence[Mapping[str, Mapping[str, float]]], costs: Mapping[str, float]) -> None:
    console = Console()
    table = Table("run", "pictures/s", "condprep is", "peak memory")
    for name in rounds[0]:
        rates = [one[name]["pictures_per_second"] for one in rounds]
        ratios = [one["condprep"]["pictures_per_second"] / rate for one, rate in zip(rounds, rates)]
        peak = max(one[name]["peak_mb"] for one in rounds)
        table.add_row(name, spread(rates, 1), f"{spread(ratios, 2)} x", f"{peak:.0f} MB")
    console.print(table)
    stages = Table("stage", "ms a picture, one thread")
    for name, cost in costs.items():
        stages.add_row(name, f"{cost:.2f}")
    stages.add_row("sum", f"{sum(costs.values()):.2f}")
    console.print(stages)


def spread(values: Sequence[float], digits: int) -> str:
    """Median (lowest to highest)."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
