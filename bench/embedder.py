"""How a condition embedder begins: what it lets through of a map, and how soon a ControlNet follows.

    python -m bench embedder [--work DIR] [--seeds 0 1 2] [--rates 2.5e-3] [--steps 400] [--every 120]

First, for drawn edges, a drawn pose and a drawn depth map of 512 px, the share of the map's deviation that arrives before the
zero convolution of an embedder of SD's widths, `model.embedder` being "usual" or "normed": the deviation among places, root mean
square over channels. Then, with --work, the quick-start is trained with either, one thread, and its F1 within two pixels is
measured on all held-out rows. DIR keeps every run; one that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from contextlib import closing
from itertools import product
from pathlib import Path
from statistics import mean

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.reward import make_dataset, recipe
from trainer.models.embedder import deviation_of, let_through

EMBEDDERS = ("usual", "normed")
DRAWS = 10  # of an embedder's weights
SIDE = 512  # pixels
COLOURS = ((255, 0, 0), (255, 170, 0), (170, 255, 0), (0, 255, 170), (0, 85, 255), (170, 0, 255))  # of limbs


def edges(side: int) -> np.ndarray:
    """Circles and boxes, one pixel wide, as Canny has them."""
    drawn, random = np.zeros((side, side), np.uint8), np.random.default_rng(0)
    for _ in range(12):
        x, y, size = (int(n * side) for n in random.uniform(0.08, 0.92, 3))
        cv2.circle(drawn, (x, y), size // 4, 255, 1)
        cv2.rectangle(drawn, (x, y), (x + size // 3, y + size // 5), 255, 1)
    return np.repeat(drawn[..., None], 3, 2)


def pose(side: int) -> np.ndarray:
    """Coloured limbs on black."""
    drawn = np.zeros((side, side, 3), np.uint8)
    joints = [(0.5, 0.2), (0.5, 0.33), (0.4, 0.49), (0.35, 0.64), (0.61, 0.49), (0.47, 0.64), (0.45, 0.9)]
    places = [(int(x * side), int(y * side)) for x, y in joints]
    for begin, end, colour in zip(places, places[1:], COLOURS):
        cv2.line(drawn, begin, end, colour, side // 85)
        cv2.circle(drawn, end, side // 128, colour, -1)
    return drawn


def depth(side: int) -> np.ndarray:
    """A floor that comes nearer, and three round things on it."""
    drawn = np.tile(np.linspace(20, 200, side)[:, None], (1, side))
    y, x = np.mgrid[:side, :side] / side
    for across, down, radius, near in ((0.3, 0.6, 0.18, 170.0), (0.62, 0.68, 0.12, 230.0), (0.82, 0.4, 0.14, 120.0)):
        drawn[(x - across) ** 2 + (y - down) ** 2 < radius**2] = near
    soft = cv2.GaussianBlur(drawn, (0, 0), side / 256)
    return np.repeat(soft.astype(np.uint8)[..., None], 3, 2)


MAPS = {"edges": edges, "pose": pose, "depth": depth}


@torch.no_grad()
def arrives(embedder: torch.nn.Module, map_: np.ndarray) -> float:
    """The share of a map's deviation, (H, W, 3), 0..255, that comes to the zero convolution of one of diffusers' embedders."""
    given, seen = torch.from_numpy(map_).permute(2, 0, 1)[None] / 255, list[Tensor]()
    with embedder.conv_out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):  # type: ignore[operator, union-attr]
        embedder(given)
    return float(deviation_of(seen[0]) / deviation_of(given))


def embedder_of(begins: str, seed: int) -> torch.nn.Module:
    """Of SD's widths."""
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

    from trainer.models.sd import EMBEDDER

    torch.manual_seed(seed)
    embedder = ControlNetConditioningEmbedding(320, 3, EMBEDDER)
    if begins == "normed":
        let_through(embedder)
    return embedder


def show_shares() -> None:
    table = Table("map", *(f"{begins}: arrives (least to most of {DRAWS} draws)" for begins in EMBEDDERS))
    for name, draw in MAPS.items():
        map_, cells = draw(SIDE), []
        for begins in EMBEDDERS:
            found = [arrives(embedder_of(begins, seed), map_) for seed in range(DRAWS)]
            cells.append(f"{mean(found):.2g} ({min(found):.2g} to {max(found):.2g})")
        table.add_row(name, *cells)
    Console(width=150).print(table)


def learn(work: Path, out: Path, begins: str, seed: int, rate: float, steps: int, every: int) -> None:
    """One run, which leaves `found.json`."""
    from trainer.training.machine import make_accelerator
    from trainer.training.prepare import prepare

    shutil.rmtree(out, ignore_errors=True)  # what an interrupted one has left
    out.mkdir()
    settings = recipe(work, out, seed, steps, every, rate, begins)
    with closing(prepare(settings, make_accelerator(settings), print, lambda *_: None)) as loop:
        loop.run()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    f1 = {line["update"]: line["fidelity_f1_2px"] for line in lines if "fidelity_f1_2px" in line}
    (out / "found.json").write_text(json.dumps(f1))


def run_folder(work: Path, begins: str, seed: int, rate: float, steps: int) -> Path:
    return work / f"{begins}-{rate:g}-{steps}-{seed}"


def show_runs(work: Path, seeds: list[int], rates: list[float], steps: int) -> None:
    """F1 within two pixels by updates."""
    table = Table("rate", "embedder", "seed", "F1 after so many updates")
    for rate, begins, seed in product(rates, EMBEDDERS, seeds):
        file = run_folder(work, begins, seed, rate, steps) / "found.json"
        if file.exists():
            found = json.loads(file.read_text())
            f1 = "  ".join(f"{update}: {value:.3f}" for update, value in found.items())
            table.add_row(f"{rate:g}", begins, str(seed), f1)
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--work", type=Path, help="the folder that keeps what is trained; without it nothing is trained"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[2.5e-3], help="of learning, at its highest")
    parser.add_argument("--steps", type=int, default=400, help="updates of a run")
    parser.add_argument("--every", type=int, default=120, help="updates between measurements")
    options = parser.parse_args()
    torch.set_num_threads(1)
    show_shares()
    if not options.work:
        return
    options.work.mkdir(parents=True, exist_ok=True)
    if not (options.work / "ds" / "dataset_dict.json").exists():
        make_dataset(options.work)
    for rate, seed, begins in product(options.rates, options.seeds, EMBEDDERS):
        out = run_folder(options.work, begins, seed, rate, options.steps)
        if not (out / "found.json").exists():
            learn(options.work, out, begins, seed, rate, options.steps, options.every)
    show_runs(options.work, options.seeds, options.rates, options.steps)
