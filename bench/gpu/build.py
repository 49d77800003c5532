"""A build end to end, from JPEGs of 1 Mpx to hed and openpose, against `datasets.map` with controlnet_aux on the same device.

hed has the real weights of the shared data where they are, openpose is the small real network of the tests, in both.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.network_states import hed_state
from support.openpose_dm14 import DM14, FOLDER, HEIGHT
from support.openpose_reference import Reference

import condprep
from bench import SHARED
from bench.annotators import pictures, seconds
from bench.build import make_pictures, timed
from bench.gpu.figures import Figures, number, ratio
from condprep import AnnotatorSpec
from condprep.annotators import registry
from condprep.annotators.openpose.annotator import Openpose, resolve_precision
from condprep.annotators.protocol import Annotator
from condprep.images.decode import decode
from condprep.images.encode import encode_map, encode_picture
from condprep.images.geometry import Geometry, resize
from condprep.weights.find import Weights

REAL = SHARED / "weights" / "hed" / "hed_bsds500_controlnet_layout_fp16.safetensors"
PEER_SECONDS = 60
LEAST_SECONDS = 2  # of a settled build
NAMES = ("hed", "openpose")


class Enough(Exception):
    """The peer has had its time."""


def measure(figures: Figures, options: argparse.Namespace) -> None:
    warnings.filterwarnings("ignore")
    count, size, cores = (8, 64, 2) if options.tiny else (2000, 512, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        make_pictures(folder / "raw", count, processes=1 if options.tiny else cores)
        figures.add("pictures", count, "JPEGs", f"of 1 Mpx, drawn in {time.perf_counter() - began:.0f} s")
        weights, names = prepare(folder, options.device)
        rate = ours(figures, folder, weights, names, size, options.device)
        wall = walls(figures, folder, weights, names, size, cores, options)
        theirs = peer(figures, folder, names, size, options)
    parts = f"{'+'.join(names)}: {number(rate)} pictures/s, {ratio(rate, theirs)} the peer"
    figures.say(f"{parts}, {ratio(rate, wall[1])} what its slowest stage could do, which is {wall[0]}")


def prepare(folder: Path, device: str) -> tuple[Weights, list[str]]:
    """Weights for hed, and a small real network as openpose where it is at hand."""
    (folder / "weights").mkdir()
    torch.save(_hed_weights(), folder / "weights" / "ControlNetHED.pth")
    weights = Weights(folder / "weights", offline=True, say=lambda _: None)
    if not FOLDER.is_dir():
        return weights, ["hed"]
    small = AnnotatorSpec(name="openpose", summary="DM14", load=lambda *_, device, **__: _openpose(device))
    registry.BUILTIN = tuple(small if spec.name == "openpose" else spec for spec in registry.BUILTIN)
    return weights, [*NAMES]


def _hed_weights() -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    if not REAL.exists():
        return hed_state()
    return {key: value.float() for key, value in load_file(REAL).items() if not key.startswith("fuse")}


def _openpose(device: str) -> Annotator:
    precision = resolve_precision("auto", device)
    known = {"parameters": {"precision": precision}, "weights": {}, "licence": "Apache-2.0", "commercial": True}
    return Openpose(DM14(), device=device, precision=precision, height=HEIGHT, provenance=known)


def ours(figures: Figures, folder: Path, weights: Weights, names: list[str], size: int, device: str) -> float:
    """Pictures a second of all of it, start-up included."""
    marks: list[tuple[float, int]] = []
    with Busy(device) as busy:
        result = condprep.build(
            folder / "raw",
            folder / "ds",
            names,
            resolution=size,
            device=device,
            weights=weights,
            progress=lambda at: marks.append((time.perf_counter(), at.done)) if at.stage == "build" else None,
        )
    rate = sum(result.rows.values()) / result.seconds
    figures.add("condprep", rate, "pictures/s", f"start-up included; {dict(result.rejects) or 'no rejects'}")
    settle(figures, [mark for mark in marks if mark[1] >= 0.2 * result.inputs], busy)
    return rate


def settle(figures: Figures, marks: list[tuple[float, int]], busy: Busy) -> None:
    """marks: when how many pictures were done, after the first fifth of them."""
    seconds = marks[-1][0] - marks[0][0] if marks else 0.0
    if seconds < LEAST_SECONDS:
        figures.add("condprep, settled", None, "", f"{len(marks)} pictures in {seconds:.1f} s are too few to tell")
        return
    figures.add(
        "condprep, settled", (marks[-1][1] - marks[0][1]) / seconds, "pictures/s", "after a fifth of the pictures"
    )
    share = busy.share(marks[0][0], marks[-1][0])
    figures.add(
        "device busy", share and 100 * share, "%", "of that time" if share else "unknown: the driver does not say it"
    )


class Busy:
    """How much of the time a kernel was running, as the driver counts it."""

    def __init__(self, device: str) -> None:
        self._samples: list[tuple[float, float]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True) if device == "cuda" else None

    def __enter__(self) -> Busy:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            try:
                self._samples.append((time.perf_counter(), torch.cuda.utilization() / 100))
            except Exception:  # the driver's library is missing, or refuses: then it is unknown
                return

    def share(self, begin: float, end: float) -> float | None:
        found = [share for at, share in self._samples if begin <= at <= end]
        return float(np.mean(found)) if found else None


def walls(
    figures: Figures,
    folder: Path,
    weights: Weights,
    names: list[str],
    size: int,
    cores: int,
    options: argparse.Namespace,
) -> tuple[str, float]:
    """What the CPU's threads and the device could do at most, each alone; and which of them is the slower."""
    costs = cpu_costs(folder, names, size)
    threads = 1000 * cores / sum(costs.values())
    slowest = ", ".join(f"{name} {cost:.1f}" for name, cost in sorted(costs.items(), key=lambda one: -one[1])[:4])
    figures.add(
        "CPU alone could", threads, "pictures/s", f"{cores} threads at {sum(costs.values()):.1f} ms: {slowest}", **costs
    )
    spent = [_device_seconds(name, weights, size, options) for name in names]
    each = ", ".join(f"{name} {number(1 / one)}/s" for name, one in zip(names, spent))
    figures.add("device alone could", 1 / sum(spent), "pictures/s", each)
    return ("the CPU", threads) if threads < 1 / sum(spent) else ("the device", 1 / sum(spent))


def cpu_costs(folder: Path, names: list[str], size: int) -> dict[str, float]:
    """Milliseconds a picture of what the threads do, with the maps that were built."""
    from datasets import load_from_disk

    rows = load_from_disk(str(folder / "ds"))["train"]
    maps = iter([np.asarray(row[name]) for row in rows.select(range(min(100, len(rows)))) for name in names] * 3)
    geometry = Geometry(size)
    stages: dict[str, Callable[[Any], Any]] = {
        "read": lambda path: path.read_bytes(),
        "decode": partial(decode, reduction=geometry.reduction),
        "resize": lambda picture: resize(picture.rgb, geometry.place(picture.size), picture.grid),
        "encode picture": encode_picture,
        "decode again": decode,
        **{f"encode {name}": lambda _: encode_map(next(maps), binary=False) for name in names},
    }
    return timed(stages, sorted((folder / "raw").iterdir())[:100])


def _device_seconds(name: str, weights: Weights, size: int, options: argparse.Namespace) -> float:
    """Of a picture, from a tensor on the device to its map on the host."""
    annotator = condprep.load_annotator(name, device=options.device, weights=weights)
    batch = 2 if options.tiny else annotator.batch_size
    rgb, keys = pictures(batch, size).to(options.device), ["0" * 64] * batch
    return (
        min(seconds(lambda: annotator(rgb, keys).maps.cpu(), options.device) for _ in range(2 if options.tiny else 6))
        / batch
    )


def peer(figures: Figures, folder: Path, names: list[str], size: int, options: argparse.Namespace) -> float | None:
    """`datasets.map` with controlnet_aux's detectors on the same device, for a minute; None where it failed."""
    from datasets import load_dataset

    detectors = _detectors(folder, names, options.device)
    began, done, limit = 0.0, 0, 2.0 if options.tiny else PEER_SECONDS

    def annotate(row: dict[str, Any]) -> dict[str, Any]:
        nonlocal began, done
        picture = row["image"].convert("RGB")
        found = {name: detect(picture, size) for name, detect in detectors.items()}
        began = began or time.perf_counter()  # the first one warms up
        done += 1
        if time.perf_counter() - began > limit:
            raise Enough
        return found

    rows = load_dataset("imagefolder", data_dir=str(folder / "raw"), split="train", cache_dir=str(folder / "cache"))
    with contextlib.suppress(Enough):
        rows.map(annotate, writer_batch_size=100, new_fingerprint="peer")  # or it would hash the networks
    rate = (done - 1) / (time.perf_counter() - began)
    figures.add("datasets.map", rate, "pictures/s", f"controlnet_aux one by one, {done} pictures, start-up excluded")
    return rate


def _detectors(folder: Path, names: list[str], device: str) -> dict[str, Callable[[Any, int], Any]]:
    from controlnet_aux import HEDdetector

    hed = HEDdetector.from_pretrained(folder / "weights").to(device)
    found: dict[str, Callable[[Any, int], Any]] = {"hed": lambda picture, size: hed(picture, size, size)}
    if "openpose" in names:
        reference = Reference(DM14(), scale=1.0, device=device)

        def openpose(picture: Any, size: int) -> np.ndarray:
            scale = size / min(picture.size)
            rgb = np.asarray(picture.resize([round(side * scale) // 64 * 64 or 64 for side in picture.size]))
            return reference.draw(reference(rgb), *rgb.shape[:2])

        found["openpose"] = openpose
    return found
