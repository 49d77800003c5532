"""Every part of `python -m bench gpu`, small and on the CPU where there is no GPU: none of them runs there for the first time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.command import python
from support.openpose_dm14 import FOLDER

from bench.gpu.parts import PARTS

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get("CONDPREP_THOROUGH"), reason="half an hour; set CONDPREP_THOROUGH"),
]
FIGURES = {  # of each part, those that must have a value
    "device": {"copy on the device", "matrix product fp32", "matrix product bf16", "matrix product fp16"},
    "tests": {"passed"},
    "annotators": {"hed", "depth", "canny", "all of them together"},
    "build": {"pictures", "condprep", "CPU alone could", "device alone could", "datasets.map"},
    "training": {"cached", "autocast", "no cache", "average", "peak predicted"},
    "cache": {"bare VAE", "cache", "captions"},
    "quickstart": {"draw", "build", "train", "evaluate"},
    "sdxl": {"cached", "peak predicted"},
    "profile": {"an update"},
}


def run(part: str, out: Path) -> dict[str, Any]:
    python("-m", "bench", "gpu", "--tiny", "--parts", part, "--out", str(out), PYTHONPATH=str(ROOT), BENCH_PEER="")
    found: dict[str, Any] = json.loads((out / "gpu.json").read_text())["parts"]
    return found[part]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_finds_its_figures(part: str, tmp_path: Path) -> None:
    """It is done, its figures are positive numbers, and one line says what they show."""
    found = run(part, tmp_path)
    assert found["status"] == "done", (found["why"], found["figures"], (tmp_path / "log.txt").read_text()[-3000:])
    values = {figure["what"]: figure["value"] for figure in found["figures"]}
    assert values.keys() >= FIGURES[part]
    assert all(values[name] > 0 for name in FIGURES[part])
    assert not values.keys() & {"failed", "failure"}
    assert found["shows"]
    assert part in (tmp_path / "gpu.txt").read_text()
    if part == "annotators" and FOLDER.is_dir():
        assert values["openpose"] > 0
    if part == "profile":
        assert "Name" in (tmp_path / "profile.txt").read_text()
