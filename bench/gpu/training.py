"""Stable Diffusion 1.5 at 512, batch 8, bf16, random weights: every way to train it, `python -m bench train`, in order of worth."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import environment
from bench.bases import make_base
from bench.gpu.figures import Figures, ratio
from bench.measured import RunFailed
from bench.train import arithmetic, chosen, make_dataset, run, ways
from bench.train import options as train_options

TARGET = 2.0  # times the peer's speed, and 60 % of its memory
LEAST = ["--size", "least", "--updates", "7", "--precision", "fp32"]  # of --tiny


def measure(figures: Figures, options: argparse.Namespace) -> None:
    order = ["cached", "peer", "autocast", "no cache", "compiled", "average"]
    common = LEAST if options.tiny else ["--size", "sd15", "--updates", "45", "--precision", "bf16"]
    if options.tiny:
        order.remove("compiled")  # minutes on a CPU
    found = train(figures, options, common, order, options.peer)
    shown = (
        f"cached against the peer: {compared(found)}, of {TARGET:.0f} x" if "peer" in found else "no peer was measured"
    )
    figures.say(f"{shown}; memory {ratio(peak(found, 'cached'), peak(found, 'peer'))}, of 0.60 x")


def train(
    figures: Figures, options: argparse.Namespace, common: Sequence[str], order: Sequence[str], peer: Path | None
) -> dict[str, dict[str, Any]]:
    """A row for each way, and the prediction of `--dry-run` beside what was measured."""
    workers = "1" if options.tiny else "4"
    arguments = train_options().parse_args([*common, "--once", "--workers", workers, "--only", *order])
    arguments.peer = peer
    if "peer" in order and not peer:
        figures.add("peer", None, "", "no script was given: --peer PATH, or BENCH_PEER")
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder / "base", arguments.size, options.device)
        make_dataset(folder / "ds", chosen(arguments))
        most = arithmetic(folder, arguments, options.device)
        for way, command in ways(arguments, folder, options.device == "cuda").items():
            if row := attempt(figures, way, command, arguments, folder):
                found[way] = row | {"arithmetic": row["pictures_per_second"] / most}
                report(figures, found[way], found)
            if way == order[0]:
                predict(figures, folder, found.get(way), options.device == "cuda")
    return found


def attempt(
    figures: Figures, way: str, command: Callable[[int], list[str]], arguments: argparse.Namespace, folder: Path
) -> dict[str, Any] | None:
    try:
        return run(way, command, arguments, folder)
    except RunFailed as failed:
        print(failed, flush=True)
        figures.add(way, None, "", f"failed: {str(failed).strip().splitlines()[-1][:200]}")
        return None


def report(figures: Figures, row: dict[str, Any], found: dict[str, dict[str, Any]]) -> None:
    name = row["run"]
    parts = [] if name == "peer" or "peer" not in found else [f"{compared(found, name)} the peer"]
    parts += [f"{row['peak_gb']:.1f} GB, {row['reserved_gb']:.1f} reserved", f"first update after {row['start']:.0f} s"]
    parts += [f"{row['arithmetic']:.0%} of matrix products' rate"]
    parts += [] if row["waits"] is None else [f"{row['waits']:.1f} waits of the host"]
    parts += [] if row["data_wait"] is None else [f"waits for data {row['data_wait']:.1%}"]
    figures.add(name, row["pictures_per_second"], "pictures/s", "; ".join(parts), **row)


def compared(found: dict[str, dict[str, Any]], name: str = "cached") -> str:
    return ratio(speed(found, name), speed(found, "peer"))


def speed(found: dict[str, dict[str, Any]], name: str) -> float | None:
    return found[name]["pictures_per_second"] if name in found else None


def peak(found: dict[str, dict[str, Any]], name: str) -> float | None:
    return found[name]["peak_gb"] if name in found else None


def predict(figures: Figures, folder: Path, row: dict[str, Any] | None, on_gpu: bool) -> None:
    """What `--dry-run` says of the recipe that has just been trained, in a folder without a run."""
    elsewhere = f"save.dir={folder / 'predicted'}"
    command = [sys.executable, "-m", "trainer", str(folder / "recipe.toml"), "--set", elsewhere, "--dry-run", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(HF_HUB_OFFLINE="1"))
    if done.returncode:
        figures.add("peak predicted", None, "", f"--dry-run failed: {done.stderr.strip().splitlines()[-1:]}")
        return
    predicted = json.loads(done.stdout)["peak_bytes"] / 1e9
    measured = f"measured {row['peak_gb']:.2f} GB, {row['peak_gb'] / predicted:.2f} x that" if row else "not measured"
    figures.add("peak predicted", predicted, "GB", f"{measured}{'' if on_gpu else ', of the whole process'}")
