"""A ControlNet from nothing, in minutes and without a GPU: `make quickstart`.

Draws coloured shapes, builds a dataset of pictures and their edges, checks it, trains a ControlNet on the tiny base of
examples/shapes, and measures whether it follows edges that it has not seen. Everything lands in quickstart/.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

QUICK, SHAPES = Path("quickstart"), Path(__file__).parent / "shapes"
RAW, DATASET, OUTPUT = QUICK / "raw", QUICK / "ds", QUICK / "output"
PICTURES, SEED = 1500, 7  # others than those of the base
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # a network so small takes 1.3 times as long with two


def main() -> None:
    run(SHAPES / "draw.py", RAW, "--pictures", PICTURES, "--seed", SEED)
    build = ["build", RAW, "--annotator", "canny", "--resolution", 64, "--validation", 0.05, "--out", DATASET]
    run("-m", "condprep", *build, "--overwrite")
    checks = ("structure", "condition", "alignment")  # and no curation: shapes look alike
    run("-m", "condprep", "verify", DATASET, *(part for check in checks for part in ("--checks", check)))
    run("-m", "trainer", "recipes/shapes.toml")
    run("-m", "trainer", "evaluate", OUTPUT)
    print(
        f"condition | generated | found in it | original: {OUTPUT / 'evaluation' / 'best.png'}, worst.png, index.html"
    )
    print(f"the ControlNet: {OUTPUT}, a diffusers folder; what was drawn while it learned: {OUTPUT / 'samples'}")


def run(*arguments: object) -> None:
    command = [sys.executable, *map(str, arguments)]
    print("$ python", *command[1:], flush=True)
    if code := subprocess.run(command, env=ONE_THREAD | os.environ).returncode:
        sys.exit(code)  # the command has said why


if __name__ == "__main__":
    main()
