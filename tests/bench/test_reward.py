"""`python -m bench reward`: its annotator sees what Canny sees, and can be learned from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from bench.reward import FIRST, Reward, Rewarded, losses_of, show, soft_edges
from trainer.models.objectives.velocity import Velocity


def square(left: int) -> np.ndarray:
    """(64, 64, 3): a red one on white."""
    pixels = np.full((64, 64, 3), 245, np.uint8)
    pixels[20:40, left : left + 20] = (215, 30, 40)
    return pixels


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def edges(pixels: np.ndarray) -> Tensor:
    """(1, 1, 64, 64), of Canny."""
    return torch.from_numpy(cv2.Canny(pixels, 100, 200))[None, None].float() / 255


@pytest.mark.parametrize("measure", ["f1", "bce"])
def test_a_picture_is_nearest_to_its_own_map(measure: str) -> None:
    """The further a square is off its map, the larger the loss; two pixels are within the tolerance."""
    right, near, far = (losses_of(measure, soft_edges(as_tensor(square(x))), edges(square(20))) for x in (20, 21, 26))
    assert right <= near < far
    assert far > 2 * near
    flat = torch.full((1, 3, 64, 64), 128.0)
    assert losses_of(measure, soft_edges(flat), edges(square(20))) > far


@pytest.mark.parametrize("measure", ["f1", "bce"])
def test_a_faint_picture_is_told_where_its_edges_are_to_grow(measure: str) -> None:
    """A step along the gradient brings the loss down, from edges too faint for Canny."""
    faint = (as_tensor(square(20)) * 0.1 + 100).requires_grad_()
    before = losses_of(measure, soft_edges(faint), edges(square(20)))
    (gradient,) = torch.autograd.grad(before.sum(), faint)
    after = losses_of(measure, soft_edges(faint - 5 * gradient.sign()), edges(square(20)))
    assert after < before


class Decoder:
    """A VAE whose latents are pixels, twice as large."""

    config = SimpleNamespace(scaling_factor=2.0)

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=latents)


def test_rows_with_little_noise_are_told_of_the_picture_that_is_predicted() -> None:
    """Of a right velocity the decoded picture is the row's own; rows with more noise are told nothing; the weight has its share."""
    objective, parameter = Velocity(torch.linspace(0.99, 0.01, 1000)), torch.nn.Parameter(torch.tensor(1.0))
    latents, noise = as_tensor(square(26)).repeat(2, 1, 1, 1) / 127.5 * 2 - 2, torch.randn(2, 3, 64, 64)
    times = torch.tensor([100, 900])
    net = SimpleNamespace(parameters=lambda: [parameter])
    base = SimpleNamespace(
        vae=Decoder(), predict=lambda _net, _noisy, times, _: objective.target(latents, noise, times) * parameter
    )
    given: list[Tensor] = []
    learner = SimpleNamespace(
        base=base, objective=objective, controlnet=net, backward=lambda losses, _: given.append(losses)
    )
    batch = SimpleNamespace(conditions=(edges(square(20)) * 255).byte().repeat(2, 3, 1, 1))
    loop: Any = SimpleNamespace(learner=learner, update=5, total=10)
    with Rewarded(loop, Reward.of("f1:0.3:0.5:400")) as rewarded:
        made = base.predict(net, objective.add_noise(latents, noise, times), times, batch)
        losses = made.square().mean((1, 2, 3))
        learner.backward(losses, None)
    added = (given[0] - losses) / rewarded.weight
    assert added[1] == 0
    assert added[0].item() == pytest.approx(
        losses_of("f1", soft_edges(as_tensor(square(26))), edges(square(20))).item(), rel=1e-3
    )
    found = rewarded.norms[0]
    assert rewarded.weight * found["reward"] == pytest.approx(0.3 * found["loss"])


def test_what_was_found_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each run that is there."""
    norms = [{"update": 0, "loss": 1.0, "reward": 2.0, "cosine": 0.25, "given": 0.5}] * FIRST
    found = {"f1": {"0": 0.2, "20": 0.5}, "seconds": [0.0, 12.0], "weight": 0.05, "norms": norms}
    (tmp_path / "f1-0.3-0.5-400-20-1").mkdir()
    (tmp_path / "f1-0.3-0.5-400-20-1" / "found.json").write_text(json.dumps(found))
    show(tmp_path, ["none", "f1:0.3:0.5:400"], [0, 1], 20)
    printed = capsys.readouterr().out
    assert "20: 0.500" in printed
    assert "0.10" in printed
