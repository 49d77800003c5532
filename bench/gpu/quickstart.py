"""The quick-start on the device: the seconds of its steps, and whether the ControlNet follows edges that it has not seen."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import CHECKOUT, environment
from bench.gpu.figures import Figures

SHAPES = CHECKOUT / "examples" / "shapes"


def measure(figures: Figures, options: argparse.Namespace) -> None:
    pictures = 60 if options.tiny else 1500
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timed(figures, "draw", [SHAPES / "draw.py", folder / "raw", "--pictures", pictures, "--seed", 7])
        build = [
            "build",
            folder / "raw",
            "--annotator",
            "canny",
            "--resolution",
            64,
            "--validation",
            0.1 if options.tiny else 0.05,
        ]
        timed(figures, "build", ["-m", "condprep", *build, "--out", folder / "ds"])
        timed(figures, "train", ["-m", "trainer", CHECKOUT / "recipes" / "shapes.toml", *settings(folder, options)])
        rows = ["--rows", 4] if options.tiny else []
        timed(figures, "evaluate", ["-m", "trainer", "evaluate", folder / "output", *rows, "--device", options.device])
        follow(figures, folder / "output")
    total = sum(row["value"] for row in figures.rows if row["unit"] == "s")
    figures.say(
        f"{total:.0f} s in all; it follows {100 * (figures.value('follows') or 0):.0f} % of the way from chance to the best"
    )


def settings(folder: Path, options: argparse.Namespace) -> list[str]:
    """What differs from the recipe: places, the device, and with --tiny the length."""
    base, dataset, out = (json.dumps(str(path)) for path in (SHAPES / "base", folder / "ds", folder / "output"))
    values = {"model.base": base, "data.path": dataset, "save.dir": out, "train.device": f'"{options.device}"'}
    if options.tiny:
        values |= {"train.steps": "8", "eval.every": "4", "eval.samples": "1", "eval.fidelity_rows": "4"}
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def timed(figures: Figures, name: str, arguments: list[object]) -> None:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=CHECKOUT, env=environment(HF_HUB_OFFLINE="1"), check=True
    )
    figures.add(name, time.perf_counter() - began, "s", "start-up included")


def follow(figures: Figures, output: Path) -> None:
    """The leading measure of the evaluation, of every arm."""
    found = json.loads((output / "evaluation" / "report.json").read_text())
    measure = found["measure"]
    arms = ", ".join(
        f"{arm} {scores[measure]['mean']:.2f}" for arm, scores in found["scores"].items() if measure in scores
    )
    follows = found["follows"]
    figures.add(
        "follows",
        follows if isinstance(follows, float) and math.isfinite(follows) else None,
        "of 1",
        f"{measure}: {arms}",
    )
