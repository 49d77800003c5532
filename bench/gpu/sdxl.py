"""Stable Diffusion XL at 1024, batch 1 with checkpointing, bf16, random weights: ours, and diffusers' script."""

from __future__ import annotations

import argparse

from bench.gpu.figures import Figures
from bench.gpu.training import LEAST, compared, train

TARGET = 1.6  # times the peer's speed


def measure(figures: Figures, options: argparse.Namespace) -> None:
    large = ["--size", "sdxl", "--updates", "25", "--precision", "bf16", "--batch", "1"]
    small = [*LEAST, "--size", "least-sdxl"]
    script = options.peer and options.peer.with_name("train_controlnet_sdxl.py")
    peer = script if script and script.exists() else None
    found = train(figures, options, [*(small if options.tiny else large), "--checkpointing"], ["cached", "peer"], peer)
    figures.say(
        f"cached against the peer: {compared(found)}, of {TARGET} x" if "peer" in found else "no peer was measured"
    )
