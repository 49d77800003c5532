"""The tests that need a device, each outcome written down as it comes: a crash loses only what comes after it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import CHECKOUT, environment
from bench.gpu.figures import Figures

FEW = "not depth and not normal and not mix"  # of --tiny: the same bodies, without the largest networks
SHOWN = 8  # failures in the table


def measure(figures: Figures, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "outcomes.jsonl"
        process = subprocess.Popen(
            command(options.tiny),
            cwd=CHECKOUT,
            env=environment(BENCH_OUTCOMES=str(lines), CONDPREP_TEST_DEVICE=options.device),
        )
        while process.poll() is None:
            time.sleep(0.5)
            show(figures, outcomes(lines))
        found = outcomes(lines)
        show(figures, found)
    counts = Counter(one["outcome"] for one in found)
    figures.say(
        f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped on {options.device}"
    )
    if process.returncode:
        raise SystemExit(process.returncode)


def command(tiny: bool) -> list[str]:
    """Small files first: the networks take longest."""
    files = sorted((CHECKOUT / "tests").rglob("test_*_gpu.py"), key=lambda file: "networks" in file.name)
    found = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-W", "ignore", "-p", "bench.gpu.outcomes"]
    if find_spec("xdist"):
        found += ["-n", "2" if tiny else "4", "--dist", "loadfile"]
    return [*found, *(["-k", FEW] if tiny else []), *(str(file.relative_to(CHECKOUT)) for file in files)]


def outcomes(lines: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


def show(figures: Figures, found: list[dict[str, Any]]) -> None:
    """How many of each, the slowest, and the failures."""
    figures.rows.clear()
    for outcome, count in sorted(Counter(one["outcome"] for one in found).items()):
        longest = max((one for one in found if one["outcome"] == outcome), key=lambda one: one["seconds"])
        figures.add(outcome, count, "tests", f"the longest {longest['seconds']:.1f} s: {longest['test']}")
    failures = [one for one in found if one["outcome"] == "failed"]
    for one in failures[:SHOWN]:
        figures.add("failure", None, "", f"{one['test']}: {one['why']}")
    if figures.rows:
        figures.rows[-1]["tests"] = found
