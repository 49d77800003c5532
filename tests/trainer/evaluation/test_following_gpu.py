"""The quick-start's base on a device: validations while training, a sample, and an evaluation."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.device import DEVICE, on_device

import condprep
from trainer import evaluate, sample
from trainer.recipe.toml import load_recipe
from trainer.training.train import train

pytestmark = on_device
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """Twelve updates on drawn shapes, validated after six and twelve."""
    out = tmp_path_factory.mktemp("shapes") / "output"
    settings = {
        "model.base": f'"{ROOT / "examples" / "shapes" / "base"}"',
        "data.path": f'"{shapes}"',
        "save.dir": f'"{out}"',
        "train.device": f'"{DEVICE}"',
        "train.steps": 12,
        "eval.every": 6,
        "eval.samples": 2,
        "eval.sampler_steps": 4,
        "eval.fidelity_rows": 4,
        "log.tracker": '"none"',
    }
    assert train(
        load_recipe(ROOT / "recipes" / "shapes.toml", [f"{key}={value}" for key, value in settings.items()])
    ).finished
    return out


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 48 drawn shapes and their edges, a quarter of them held out."""
    folder = tmp_path_factory.mktemp("drawn")
    draw = runpy.run_path(str(ROOT / "examples" / "shapes" / "draw.py"))
    (folder / "raw").mkdir()
    for number, (picture, text) in enumerate(draw["pictures"](7, 48)):
        picture.save(folder / "raw" / f"{number:02d}.png")
        (folder / "raw" / f"{number:02d}.txt").write_text(text)
    condprep.build(folder / "raw", folder / "ds", "canny", resolution=64, validation=0.25)
    return folder / "ds"


def test_it_is_validated_on_the_way(output: Path) -> None:
    """Held-out losses with and without the own condition, fidelity, and pictures after six and twelve updates."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if "fidelity" in line][-2:] == [6, 12]
    assert all({"val_loss", "condition_gap"} <= line.keys() for line in lines if "val_loss" in line)
    assert len(list((output / "samples").iterdir())) >= 2


def test_a_sample_is_that_of_the_cpu(output: Path) -> None:
    """The same seed gives the same picture in float32, at most 4 grey levels apart on average."""
    edges = np.zeros((64, 64), np.uint8)
    edges[16:48, 16] = edges[16:48, 47] = edges[16, 16:48] = edges[47, 16:48] = 255
    made = [
        np.asarray(
            sample(output, Image.fromarray(edges), "a red square", steps=4, cfg=3.0, precision="fp32", device=device)
        )
        for device in ("cpu", DEVICE)
    ]
    assert made[0].shape == (64, 64, 3)
    assert np.abs(made[0].astype(int) - made[1]).mean() <= 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_is_evaluated(output: Path, precision: str) -> None:
    """Every arm has a figure, and the real pictures follow their own edges better than the base's do, which saw none."""
    found = evaluate(output, rows=4, sampler_steps=2, precision=precision, device=DEVICE)
    means = {arm: scores[found.measure].mean for arm, scores in found.scores.items()}
    assert means.keys() >= {"controlnet", "base", "real"}
    assert np.isfinite(list(means.values())).all()
    assert means["real"] > means["base"]
