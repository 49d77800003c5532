"""Pictures per second and peak memory of training, against diffusers' own script, in one run.

    python -m bench train --size tiny|sd15|sdxl [--resolution 512] [--peer PATH/train_controlnet.py] [--updates 100] [--only RUN ...]
                          [--batch N] [--checkpointing] [--once] [--beside]

Builds a base with random weights at that size (no download) and a dataset of drawn pictures, then trains with the same
batch, precision, rows and number of threads that decode, each in a process of its own:

    peer       the script at PATH, unmodified (train_controlnet_sdxl.py for --size sdxl)
    no cache   `python -m trainer`, cache.latents = cache.text = false, no average, as the peer has none
    cached     with both caches
    average    with both caches and the moving average of the weights
    compiled   as cached, with train.compile = true; on a CPU, which compiles for minutes, only by --only

With --beside there are four runs, all cached: alone and beside a process that keeps a core busy, with threads that wait
as the trainer has them (OMP_WAIT_POLICY = PASSIVE) and with threads that spin (ACTIVE).

Every run is made twice: a short one fills its caches, the long one is measured by the clock at the end of its optimizer's
steps (of every tenth on a GPU, which is waited for there), so that neither start-up nor the result count for its speed.
"start" is from the program's start to the end of the first update, with the caches at hand (--once: they are filled then,
and there is no short run); "data wait" is the share of the time in which there was no batch, as the trainer's metrics say it. Peak memory is that of the GPU where there is one, else of the process. Speeds on shared machines
wander: compare within a run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import environment
from bench.bases import make_base

# Runs a program, and writes down when its optimizer's steps ended, in seconds since the epoch, before which of them the GPU was
# waited for, and how much memory it took at most, in bytes, and with what its allocator kept: argv is FILE PROGRAM ARGUMENTS...
MEASURED = """
import atexit, json, resource, runpy, sys, time
from torch import cuda
from torch.optim.optimizer import register_optimizer_step_post_hook
_, file, *sys.argv = sys.argv
steps, waited = [], []
def step(*_):
    if not cuda.is_initialized() or len(steps) % 10 == 9:
        cuda.synchronize() if cuda.is_initialized() else None
        waited.append(len(steps))
    steps.append(time.time())
register_optimizer_step_post_hook(step)
def write():
    gpu = (cuda.max_memory_allocated(), cuda.max_memory_reserved()) if cuda.is_initialized() else None
    peak = gpu or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024] * 2
    open(file, "w").write(json.dumps({"steps": steps, "waited": waited, "peak": peak[0], "reserved": peak[1]}))
atexit.register(write)
script = sys.argv[0].endswith(".py")
(runpy.run_path if script else runpy.run_module)(sys.argv[0], run_name="__main__", **({} if script else {"alter_sys": True}))
"""
SETTLED = 5  # updates until the speed is that of all others


@dataclass(frozen=True)
class Size:
    """What is trained: pixels of a side, pictures of an update, rows of the dataset."""

    resolution: int
    batch: int
    rows: int
    checkpointing: bool = False


SIZES = {
    "least": Size(64, 2, 8),
    "least-sdxl": Size(64, 2, 8),
    "tiny": Size(256, 4, 64),
    "sd15": Size(512, 8, 512),
    "sdxl": Size(1024, 2, 128),
}


class RunFailed(Exception):
    """A program that was measured ended with an error; its last words."""


@dataclass(frozen=True)
class Measured:
    """What a program did."""

    ends: Sequence[float]  # of its updates, seconds since it began
    waited: Sequence[int]  # at the ends of which of them nothing was under way any more
    peak: int  # bytes
    reserved: int  # with what the allocator kept

    def speed(self, batch: int) -> float:
        """Pictures a second, once it has settled."""
        marks = [n for n in self.waited if n >= SETTLED - 1]
        return (marks[-1] - marks[0]) * batch / (self.ends[marks[-1]] - self.ends[marks[0]])


def chosen(arguments: argparse.Namespace) -> Size:
    size = SIZES[arguments.size]
    return replace(
        size,
        resolution=arguments.resolution or size.resolution,
        batch=arguments.batch or size.batch,
        checkpointing=arguments.checkpointing,
    )


def make_dataset(folder: Path, size: Size) -> None:
    """Drawn pictures with canny maps, stored as JPEG as photographs are."""
    from support.trainer_models import save_pictures

    import condprep

    pictures = save_pictures(folder.with_name("pictures"), size.rows, (size.resolution, size.resolution))
    condprep.build(pictures, folder, "canny", resolution=size.resolution)


def ours(folder: Path, size: Size, precision: str, workers: int, updates: int, **tables: dict[str, Any]) -> list[str]:
    """The command line of a run of condprep's trainer."""
    from trainer.recipe.toml import dump_recipe, parse_recipe

    values: dict[str, dict[str, Any]] = {
        "model": {"base": str(folder / "base")},
        "data": {
            "path": str(folder / "ds"),
            "resolution": size.resolution,
            "num_workers": workers,
            "caption_dropout": 0.0,
        },
        "train": {"steps": updates, "batch": size.batch, "micro_batch": size.batch, "schedule": "constant"},
        "ema": {"enabled": False},
        "eval": {"every": 0},
        "log": {"every": max(1, updates // 2)},
        "save": {"dir": str(folder / "ours" / str(updates)), "every": 10**6, "resume": "never"},
    }
    merged = {name: values.get(name, {}) | tables.get(name, {}) for name in (*values, "cache")}
    merged["train"] |= {"precision": precision, "gradient_checkpointing": size.checkpointing}
    recipe = folder / "recipe.toml"
    recipe.write_text(dump_recipe(parse_recipe(merged)))
    return ["trainer", str(recipe)]


def peer(script: Path, folder: Path, size: Size, precision: str, workers: int, updates: int) -> list[str]:
    """The command line of diffusers' script."""
    options = {
        "pretrained_model_name_or_path": folder / "base",
        "dataset_name": folder / "ds",
        "output_dir": folder / "peer",
        "resolution": size.resolution,
        "train_batch_size": size.batch,
        "max_train_steps": updates,
        "learning_rate": 1e-5,
        "lr_scheduler": "constant",
        "mixed_precision": {"fp32": "no"}.get(precision, precision),
        "checkpointing_steps": 10**6,
        "dataloader_num_workers": workers,
        "seed": 0,
    }
    flags = ["--gradient_checkpointing"] if size.checkpointing else []
    return [str(script), *(f"--{name}={value}" for name, value in options.items()), *flags]


def measure(folder: Path, command: Sequence[str], updates: int, **more: str) -> Measured:
    """Run a program of that many updates. more: of its environment. Raises RunFailed."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder / "measured"), *command],
        capture_output=True,
        text=True,
        env=environment(HF_HUB_OFFLINE="1", DIFFUSERS_VERBOSITY="error", **more),
    )
    if done.returncode:
        raise RunFailed(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    found = json.loads((folder / "measured").read_text())
    rehearsed = len(found["steps"]) - updates  # what is before
    ends = [end - began for end in found["steps"][rehearsed:]]
    waited = [n - rehearsed for n in found["waited"] if n >= rehearsed]
    return Measured(ends, waited, found["peak"], found["reserved"])


def data_wait(folder: Path, updates: int) -> float | None:
    """Of the second half of our run with that many updates; the peer does not measure it."""
    metrics = folder / "ours" / str(updates) / "metrics.jsonl"
    return json.loads(metrics.read_text().splitlines()[-1])["data_wait"] if metrics.exists() else None


def ways(arguments: argparse.Namespace, folder: Path, on_gpu: bool) -> dict[str, Callable[[int], list[str]]]:
    """Every way to train, and its command line for a number of updates."""
    size, precision = chosen(arguments), arguments.precision or ("bf16" if on_gpu else "fp32")
    common = (folder, size, precision, arguments.workers)
    cached = {"cache": {"latents": True, "text": True}}
    found: dict[str, Callable[[int], list[str]]] = {
        "no cache": lambda n: ours(*common, n, cache={"latents": False, "text": False}),
        "cached": lambda n: ours(*common, n, **cached),
        "average": lambda n: ours(*common, n, **cached, ema={"enabled": True}),
    }
    if on_gpu or "compiled" in (arguments.only or ()):
        found["compiled"] = lambda n: ours(*common, n, **cached, train={"compile": True})
    if arguments.peer:
        found = {"peer": lambda n: peer(arguments.peer, *common, n)} | found
    return {name: found[name] for name in arguments.only or found if name in found}


def run(name: str, command: Callable[[int], list[str]], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One of them, measured. Raises RunFailed."""
    if not arguments.once:
        measure(folder, command(1), 1)  # fills caches: its own, the dataset's, the disk's
    shutil.rmtree(folder / "ours", ignore_errors=True)
    done = measure(folder, command(arguments.updates), arguments.updates)
    wait = None if name == "peer" else data_wait(folder, arguments.updates)
    return {
        "run": name,
        "pictures_per_second": done.speed(chosen(arguments).batch),
        "data_wait": wait,
        "peak_gb": done.peak / 1e9,
        "reserved_gb": done.reserved / 1e9,
        "start": done.ends[0],
    }


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """With that many processes that do nothing but compute."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def beside(command: Callable[[int], list[str]], arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Alone and beside a busy process, waiting and spinning: pictures per second, and the share of waiting alone."""
    measure(folder, command(1), 1)
    found: list[dict[str, Any]] = []
    for policy in ("PASSIVE", "ACTIVE"):
        for others in (0, 1):
            shutil.rmtree(folder / "ours", ignore_errors=True)
            with busy(others):
                done = measure(folder, command(arguments.updates), arguments.updates, OMP_WAIT_POLICY=policy)
            speed = done.speed(chosen(arguments).batch)
            first = found[0]["pictures_per_second"] if found else speed
            name = f"{'beside a busy process' if others else 'alone'}, {policy.lower()}"
            found.append({"run": name, "pictures_per_second": speed, "share": speed / first})
            print(found[-1], file=sys.stderr, flush=True)
    return found


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--resolution", type=int, help="pixels of a side, instead of the size's own")
    parser.add_argument("--batch", type=int, help="pictures of an update, instead of the size's own")
    parser.add_argument("--checkpointing", action="store_true", help="of activations, in all runs")
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--updates", type=int, default=100, help=f"of the measured run, more than {SETTLED}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "fp16", "fp32"))
    parser.add_argument("--only", nargs="+", metavar="RUN", help="some of the runs above")
    parser.add_argument("--once", action="store_true", help="no run before, to fill the caches")
    parser.add_argument(
        "--beside", action="store_true", help="alone and beside a busy process, instead of the runs above"
    )
    parser.add_argument("--json", action="store_true")
    return parser


def main() -> None:
    import torch

    arguments, found = options().parse_args(), []
    table = Table("run", "pictures/s", "data wait", "peak memory", "start")
    with tempfile.TemporaryDirectory() as name:
        folder, on_gpu = Path(name), torch.cuda.is_available()
        make_base(folder / "base", arguments.size, "cuda" if on_gpu else "cpu")
        make_dataset(folder / "ds", chosen(arguments))
        known = ways(arguments, folder, on_gpu)
        if arguments.beside:
            table = Table("run", "pictures/s", "of the first")
            found = beside(known["cached"], arguments, folder)
            for row in found:
                table.add_row(row["run"], f"{row['pictures_per_second']:.1f}", f"{row['share']:.0%}")
            known = {}
        for way, command in known.items():
            try:
                row = run(way, command, arguments, folder)
            except RunFailed as failed:
                sys.exit(str(failed))
            found.append(row)
            speed = f"{row['pictures_per_second']:.1f} ({row['pictures_per_second'] / found[0]['pictures_per_second']:.2f} x)"
            waited = "" if row["data_wait"] is None else f"{row['data_wait']:.1%}"
            table.add_row(way, speed, waited, f"{row['peak_gb']:.2f} GB", f"{row['start']:.1f} s")
            print(row, file=sys.stderr, flush=True)
    print(json.dumps(found)) if arguments.json else Console().print(table)
