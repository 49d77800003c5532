"""Pictures per second, peak memory, share of the device's arithmetic and waits of the host, against diffusers' own script, in one run.

    python -m bench train --size tiny|sd15|sdxl [--resolution 512] [--peer PATH/train_controlnet.py] [--updates 100] [--only RUN ...]
                          [--batch N] [--checkpointing] [--once] [--beside] [--device cpu]

Builds a base with random weights at that size (no download) and a dataset of drawn pictures, then trains with the same
batch, precision, rows and number of threads or processes that decode, each in a process of its own:

    peer       the script at PATH, unmodified (train_controlnet_sdxl.py for --size sdxl), its VAE in the precision of the training, as ours
    cached     `python -m trainer` with both caches, no average, as the peer has none
    autocast   as cached, but weights are cast in every pass instead of once an update
    no cache   cache.latents = cache.text = false
    compiled   as cached, with train.compile = true; on a CPU, which compiles for minutes, only by --only
    average    as cached, with the moving average of the weights
    cudnn      as cached, with torch.backends.cudnn.benchmark, which the trainer leaves off; only by --only, as is
    tf32       as cached, with float32 products in TF32

With --beside there are four runs, all cached: alone and beside a process that keeps a core busy, with threads that wait
as the trainer has them (OMP_WAIT_POLICY = PASSIVE) and with threads that spin (ACTIVE).

Every run is made twice: a short one fills its caches, the long one is measured by the clock at the end of its optimizer's
steps (of every tenth on a GPU, which is waited for there), so that neither start-up nor the result count for its speed.
"start" is from the program's start to the end of the first update, with the caches at hand (--once: they are filled then,
and there is no short run); "data wait" is the share of the time in which there was no batch, as the trainer's metrics say it; "arithmetic" what
an update with caches has to compute (bench/flops.py), as a share of the rate of a large matrix product in that precision; "waits" how often the host
waits for the GPU in an update that is settled (torch.cuda.set_sync_debug_mode). Peak memory is that of the GPU where there is one, else of the
process. Speeds on shared machines wander: compare within a run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.bases import make_base
from bench.flops import update_flops
from bench.measured import SETTLED, RunFailed, measure

BEFORE = {  # Python that makes a run of ours another one
    "autocast": "import trainer.training.step as step; step.is_wanted = lambda *_: False",
    "cudnn": "torch.backends.cudnn.benchmark = True",
    "tf32": "torch.set_float32_matmul_precision('high')",
}
BY_NAME = ("compiled", "cudnn", "tf32")  # on a CPU; on a GPU the first of them is run, too


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
    if "sdxl" in script.name:  # else its VAE stays in fp32, which no user of bf16 has
        options |= {"pretrained_vae_model_name_or_path": folder / "base" / "vae"}
    return [str(script), *(f"--{name}={value}" for name, value in options.items()), *flags]


def data_wait(folder: Path, updates: int) -> float | None:
    """Of the second half of our run with that many updates; the peer does not measure it."""
    metrics = folder / "ours" / str(updates) / "metrics.jsonl"
    return json.loads(metrics.read_text().splitlines()[-1])["data_wait"] if metrics.exists() else None


def ways(arguments: argparse.Namespace, folder: Path, on_gpu: bool) -> dict[str, Callable[[int], list[str]]]:
    """Every way to train, and its command line for a number of updates."""
    size, precision = chosen(arguments), chosen_precision(arguments, "cuda" if on_gpu else "cpu")
    common = (folder, size, precision, arguments.workers)
    cached = {"cache": {"latents": True, "text": True}}
    found: dict[str, Callable[[int], list[str]]] = {
        "cached": lambda n: ours(*common, n, **cached),
        "autocast": lambda n: ours(*common, n, **cached),
        "no cache": lambda n: ours(*common, n, cache={"latents": False, "text": False}),
        "compiled": lambda n: ours(*common, n, **cached, train={"compile": True}),
        "average": lambda n: ours(*common, n, **cached, ema={"enabled": True}),
        "cudnn": lambda n: ours(*common, n, **cached),
        "tf32": lambda n: ours(*common, n, **cached),
    }
    usual = [name for name in found if name not in BY_NAME[on_gpu:]]
    if arguments.peer:
        found = {"peer": lambda n: peer(arguments.peer, *common, n)} | found
        usual = ["peer", *usual]
    return {name: found[name] for name in arguments.only or usual if name in found}


def run(name: str, command: Callable[[int], list[str]], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One of them, measured. Raises RunFailed."""
    if not arguments.once:
        measure(folder, command(1), 1)  # fills caches: its own, the dataset's, the disk's
    shutil.rmtree(folder / "ours", ignore_errors=True)
    done = measure(folder, command(arguments.updates), arguments.updates, BEFORE.get(name, ""))
    wait = None if name == "peer" else data_wait(folder, arguments.updates)
    return {
        "run": name,
        "pictures_per_second": done.speed(chosen(arguments).batch),
        "data_wait": wait,
        "peak_gb": done.peak / 1e9,
        "reserved_gb": done.reserved / 1e9,
        "start": done.ends[0],
        "waits": done.waits,
    }


def arithmetic(folder: Path, arguments: argparse.Namespace, device: str) -> float:
    """Pictures a second at which an update would be nothing but large matrix products in the precision of the training."""
    import torch

    from bench.annotators import matmul_rate

    precision = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[
        chosen_precision(arguments, device)
    ]
    least = arguments.size.startswith("least")
    rate = matmul_rate(device, precision, 256 if least else None)
    return rate / update_flops(folder / "base", chosen(arguments).resolution)


def chosen_precision(arguments: argparse.Namespace, device: str) -> str:
    return str(arguments.precision or ("bf16" if device == "cuda" else "fp32"))


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
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="some of the runs above")
    parser.add_argument("--once", action="store_true", help="no run before, to fill the caches")
    parser.add_argument(
        "--beside", action="store_true", help="alone and beside a busy process, instead of the runs above"
    )
    parser.add_argument("--json", action="store_true")
    return parser


def main() -> None:
    arguments = options().parse_args()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of the programs that are measured, too
    import torch

    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    if arguments.device == "cuda" and not on_gpu:
        sys.exit(f"--device cuda: torch {torch.__version__} sees no GPU")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder / "base", arguments.size, device)
        make_dataset(folder / "ds", chosen(arguments))
        known = ways(arguments, folder, on_gpu)
        if arguments.beside:
            found = beside(known["cached"], arguments, folder)
        else:
            found = list(each(known, arguments, folder, arithmetic(folder, arguments, device)))
    if arguments.json:
        print(json.dumps(found))
    else:
        Console(width=110).print(shares(found) if arguments.beside else table(found))


def each(
    known: Mapping[str, Callable[[int], list[str]]], arguments: argparse.Namespace, folder: Path, most: float
) -> Iterator[dict[str, Any]]:
    """A row for each way to train, told as it comes. most: pictures a second of arithmetic alone."""
    for way, command in known.items():
        try:
            row = run(way, command, arguments, folder)
        except RunFailed as failed:
            sys.exit(str(failed))
        row["arithmetic"] = row["pictures_per_second"] / most
        print(row, file=sys.stderr, flush=True)
        yield row


def table(found: Sequence[dict[str, Any]]) -> Table:
    made = Table("run", "pictures/s", "arithmetic", "waits", "data wait", "peak memory", "start")
    for row in found:
        ratios = [f"{row[key] / found[0][key]:.2f} x" for key in ("pictures_per_second", "peak_gb")]
        waits = "" if row["waits"] is None else f"{row['waits']:.1f}"
        waited = "" if row["data_wait"] is None else f"{row['data_wait']:.1%}"
        speed, peak = f"{row['pictures_per_second']:.1f} ({ratios[0]})", f"{row['peak_gb']:.2f} GB ({ratios[1]})"
        made.add_row(row["run"], speed, f"{row['arithmetic']:.1%}", waits, waited, peak, f"{row['start']:.1f} s")
    return made


def shares(found: Sequence[dict[str, Any]]) -> Table:
    made = Table("run", "pictures/s", "of the first")
    for row in found:
        made.add_row(row["run"], f"{row['pictures_per_second']:.1f}", f"{row['share']:.0%}")
    return made
