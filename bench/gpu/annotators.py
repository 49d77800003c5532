"""Annotators from tensors, against controlnet_aux's detectors on the same device: `python -m bench annotators`, and what is counted."""

from __future__ import annotations

import argparse
import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from support.device import waits
from support.openpose_dm14 import FOLDER

from bench.annotators import CASES, Pair, annotating, measure_pair, pictures, together
from bench.gpu.figures import Figures, number

TARGETS = {"hed": 1500, "openpose": 1000, "depth": 500}  # pictures/s on an H100


def measure(figures: Figures, options: argparse.Namespace) -> None:
    warnings.filterwarnings("ignore")
    how = argparse.Namespace(
        device=options.device,
        size=64 if options.tiny else 512,
        batch=2 if options.tiny else 32,
        precision="auto",
        rounds=1 if options.tiny else 4,
    )
    pairs = {}
    for name in (*TARGETS, "canny"):
        if name == "openpose" and not FOLDER.is_dir():
            figures.add(name, None, "", f"its small real network is not in {FOLDER}")
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            pairs[name] = CASES[name](how)
        one(figures, name, pairs[name], how)
    rate = together(list(pairs.values()), how)
    figures.add("all of them together", rate["annotator"], "pictures/s", f"{rate['ratio']:.2f} x one after the other")
    met = [
        f"{name} {number(figures.value(name) or 0)} of {target}" for name, target in TARGETS.items() if name in pairs
    ]
    figures.say(f"pictures/s of their targets at {how.size} px, batch {how.batch}: {', '.join(met)}")


def one(figures: Figures, name: str, pair: Pair, how: argparse.Namespace) -> None:
    row = measure_pair(pair, how)
    work = annotating([pair], pictures(how.batch + 7, how.size), how)
    counted = {"waits": waits(work), "copies": copies(work)} if how.device == "cuda" else {}
    parts = [f"{number(row['ratio'])} x controlnet_aux ({number(row['peer'])})"]
    if row["gflop"]:
        parts += [f"network {number(row['network'])}/s", f"{row['share']:.0%} of the matrix rate"]
    parts += [f"a batch: {count} {what}" for what, count in counted.items()]
    figures.add(name, row["annotator"], "pictures/s", "; ".join(parts), target=TARGETS.get(name), **row, **counted)


def copies(work: Callable[[], Any]) -> int:
    """Between host and device, in one call."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    return sum(event.name.startswith("Memcpy") and "DtoD" not in event.name for event in profiler.events())
