"""The parts, in order of worth: what each is, how long it may take, and when it is not worth beginning."""

from __future__ import annotations

import argparse
import traceback
from dataclasses import dataclass
from importlib import import_module

from bench.gpu.figures import Figures


@dataclass(frozen=True)
class Part:
    """Seconds are those of an H100 with 16 cores; --tiny has ten times the limit."""

    about: str
    least: float  # seconds without which it would show nothing
    limit: float  # seconds after which it hangs


PARTS = {
    "device": Part("the device: name, memory, copies, matrix products", 15, 45),
    "tests": Part("the tests that need a device (pytest -m gpu)", 40, 110),
    "annotators": Part("annotators from tensors, against controlnet_aux", 30, 90),
    "build": Part("a build of JPEGs to hed and openpose, against datasets.map with controlnet_aux", 60, 150),
    "training": Part("Stable Diffusion 1.5 at 512, batch 8, bf16, against diffusers' script", 60, 170),
    "cache": Part("filling the caches of Stable Diffusion 1.5 at 512, against the bare VAE", 30, 60),
    "quickstart": Part("the quick-start: from drawn shapes to a ControlNet that follows them", 40, 100),
    "sdxl": Part("Stable Diffusion XL at 1024, batch 1, checkpointing", 80, 170),
    "profile": Part("the ten longest operations of an update, waits, and the share of time without any", 50, 90),
}


def measure(options: argparse.Namespace) -> None:
    """One part, in this process: its figures go to options.file."""
    import torch

    on_gpu = torch.cuda.is_available()
    options.device = "cuda" if on_gpu else "cpu"
    figures = Figures(options.file)
    try:
        import_module(f"bench.gpu.{options.part}").measure(figures, options)
    except Exception as error:
        last = str(error).strip().splitlines() or [""]
        figures.add("failed", None, "", f"{type(error).__name__}: {last[-1][:300]}")
        traceback.print_exc()
        raise SystemExit(1) from None
