"""`python -m bench precision`: how far maps in half precision are from fp32's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data
from support.aux_models import save_checkpoints

from bench import precision


def test_levels_are_counted_by_value_and_changes_by_pixel() -> None:
    """Of a thousand pixels one is 9 levels off in one colour: 99.9 % of the values have no difference, one pixel changes."""
    exact = torch.zeros(1, 3, 20, 50)
    half = exact.clone()
    half[0, 1, 3, 4] = 9
    mean, most, share = precision.apart(exact, half)
    assert (mean, most, share) == (pytest.approx(0.003), 0, pytest.approx(0.001))
    assert precision.apart(exact, exact + 2) == (2, 2, 1)


def test_a_table_of_those_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each annotator and number format, of any pictures, at the size that was asked for."""
    save_checkpoints(tmp_path, "teed")
    Image.fromarray(data.coffee()).save(tmp_path / "cup.png")
    assert precision.squares([tmp_path / "cup.png"], 64).shape == (1, 3, 64, 64)
    asked = ["teed", "--weights", str(tmp_path), "--pictures", str(tmp_path / "cup.png"), "--side", "64"]
    monkeypatch.setattr(sys, "argv", ["bench", *asked])
    precision.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines if line and line[0] == "teed"] == [["teed", "bf16"], ["teed", "fp16"]]
