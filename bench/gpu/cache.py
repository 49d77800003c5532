"""Filling the caches of Stable Diffusion 1.5 at 512, bf16, random weights, against the bare VAE: `python -m bench cache`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench.cache import measured
from bench.gpu.figures import Figures, ratio

TARGET = 0.95  # of the bare VAE's rate


def measure(figures: Figures, options: argparse.Namespace) -> None:
    size = "least" if options.tiny else "sd15"
    asked = {"size": size, "rows": None, "workers": 1 if options.tiny else 8, "precision": None}
    with tempfile.TemporaryDirectory() as name:
        found = measured(Path(name), argparse.Namespace(**asked, device=options.device))
    figures.add("bare VAE", found["bare"], "pictures/s", "its encoder, with nothing else to do")
    figures.add("cache", found["cache"], "pictures/s", "read, decoded, encoded, written and described")
    figures.add("captions", found["captions"], "captions/s")
    figures.say(f"the cache is filled at {ratio(found['cache'], found['bare'])} the bare VAE's rate, of {TARGET:.2f} x")
