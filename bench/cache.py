"""Filling the caches of a training, against the bare VAE on pictures that are decoded already.

    python -m bench cache [--size tiny|sd15|sdxl] [--rows N] [--workers 4] [--precision bf16] [--device cpu]

Builds a base with random weights and a dataset of drawn pictures, as `python -m bench train` does. "bare" is the VAE's encoder, batch
after batch of the same size on the device, with nothing else to do; "cache" is all that fills the cache: reading and decoding on threads,
encoding, and shards written and described behind it. The rate of the cache is to be that of the VAE.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.bases import make_base
from bench.train import SIZES, make_dataset

BARE = 6  # batches that are encoded with nothing else to do, after one to warm up


def rates(folder: Path, resolution: int, workers: int, precision: str, device: str) -> dict[str, float]:
    """Pictures a second, bare and with all that fills the cache, and captions a second."""
    from trainer.data.open import open_splits
    from trainer.models.families import load_base
    from trainer.recipe.toml import parse_recipe
    from trainer.types import ONE_PROCESS, torch_dtype

    data = {"path": str(folder / "ds"), "resolution": resolution, "num_workers": workers}
    values = {"model": {"base": str(folder / "base")}, "data": data, "cache": {"dir": str(folder / "cache")}}
    recipe = parse_recipe(values | {"train": {"batch": 1, "micro_batch": 1}})
    base = load_base(recipe.model, recipe.text)
    base.to(device, torch_dtype(precision))
    train, _ = open_splits(recipe)
    train = train.with_caches(base)
    bare = bare_rate(base, resolution, device)
    marks: dict[str, tuple[float, int]] = {}
    began = time.perf_counter()

    def progress(what: str, done: int, _: int) -> None:
        marks[what.partition(" ")[0]] = (time.perf_counter(), done)

    train.fill(ONE_PROCESS, progress)
    ended, pictures = marks["latents"]
    return {
        "bare": bare,
        "cache": pictures / (ended - began),
        "captions": len(train.captions()) / (marks["text"][0] - ended),
    }


def bare_rate(base: Any, resolution: int, device: str) -> float:
    """Pictures a second of the VAE's encoder."""
    import torch

    from trainer.data.cache import ENCODED_PIXELS

    batch = max(1, ENCODED_PIXELS // resolution**2)
    pixels = torch.randint(0, 256, (batch, 3, resolution, resolution), dtype=torch.uint8).to(device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    base.encode_pixels(pixels)
    wait()
    began = time.perf_counter()
    for _ in range(BARE):
        base.encode_pixels(pixels)
    wait()
    return BARE * batch / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rows", type=int, help="of the dataset, instead of the size's own")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--precision", choices=("bf16", "fp16", "fp32"))
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as name:
        found = measured(Path(name), options)
    table = Table("what", "a second", "of the bare VAE")
    for what, rate in found.items():
        table.add_row(what, f"{rate:.1f}", "" if what == "captions" else f"{rate / found['bare']:.1%}")
    Console(width=100).print(table)


def measured(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """A base and a dataset of that size, and what `rates` finds."""
    from dataclasses import replace

    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"--device cuda: torch {torch.__version__} sees no GPU")
    size = SIZES[options.size]
    make_base(folder / "base", options.size, device)
    make_dataset(folder / "ds", replace(size, rows=options.rows or size.rows))
    precision = options.precision or ("bf16" if device == "cuda" else "fp32")
    return rates(folder, size.resolution, options.workers, precision, device)
