"""What SD 1.5, 2 and XL learn, kept as numbers: whatever is built beside them, their updates stay what they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.learners import make_batch, make_learner
from support.trainer_models import FAMILIES, save_base
from torch import Tensor

from trainer.models.loss import row_losses
from trainer.training.condition_gap import loss_sums, mean_losses
from trainer.training.step import Learner

EVERYTHING = {"snr_gamma": 5.0, "noise_offset": 0.1, "input_perturbation": 0.1}

# of an update with EVERYTHING: losses of its rows, norm of the gradients; held-out losses of the four bands
GOLDEN: dict[str, Any] = {
    "sd15": {
        "losses": [1.20053, 1.09371, 1.036152, 1.108938],
        "norm": 0.1566155,
        "right": (1.085936, 1.102792, 1.111291, 1.111852),
        "shuffled": (1.085939, 1.102794, 1.111293, 1.111853),
    },
    "sd2": {
        "losses": [1.179567, 0.2962866, 0.250373, 0.4207734],
        "norm": 0.02138104,
        "right": (0.9481821, 0.5979117, 0.2885956, 0.1553456),
        "shuffled": (0.9481846, 0.5979133, 0.2885962, 0.1553459),
    },
    "sdxl": {
        "losses": [1.232199, 1.080335, 1.031863, 1.040391],
        "norm": 0.1420035,
        "right": (1.083124, 1.069312, 1.067305, 1.063978),
        "shuffled": (1.083124, 1.069312, 1.067305, 1.063978),
    },
}


@pytest.fixture(scope="module")
def learners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Learner]:
    """Their weights are never stepped."""
    root = tmp_path_factory.mktemp("bases")
    return {family: make_learner(save_base(root / family, family), slim=False, **EVERYTHING) for family in FAMILIES}


def written_out(learner: Learner, family: str) -> tuple[Tensor, list[Tensor]]:
    """Losses and gradients of the update by the formulas that the trainer began with, a row each of what is drawn."""
    batch, draws = learner.drawn(make_batch(learner.base))
    assert batch.latents is not None
    assert draws.further is not None
    alpha = learner.base.scheduler.alphas_cumprod[draws.timesteps][:, None, None, None]
    latents = batch.latents.mean + batch.latents.std * draws.posterior
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * (draws.noise + draws.further)
    prediction = learner.base.predict(learner.controlnet, noisy, draws.timesteps, batch)
    velocity = alpha.sqrt() * draws.noise - (1 - alpha).sqrt() * latents
    target = velocity if family == "sd2" else draws.noise
    losses = (prediction.float() - target.float()).square().mean((1, 2, 3))
    snr = (alpha / (1 - alpha)).flatten()
    weights = snr.clamp(max=5.0) / (snr + 1) if family == "sd2" else (5.0 / snr).clamp(max=1)
    (weights * losses).mean().backward()
    return losses.detach(), taken(learner)


def update(learner: Learner) -> tuple[Tensor, list[Tensor]]:
    """Losses and gradients of an update as the learner makes it, with no step of the optimizer."""
    batch, draws = learner.drawn(make_batch(learner.base))
    losses = row_losses(learner.base, learner.prepared, learner.objective, batch, draws)
    learner.backward(losses, draws)
    return losses.detach(), taken(learner)


def taken(learner: Learner) -> list[Tensor]:
    """The gradients, which are then gone."""
    found = [parameter.grad.clone() for parameter in learner.controlnet.parameters() if parameter.grad is not None]
    learner.controlnet.zero_grad()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_is_bit_for_bit_what_it_was(learners: dict[str, Learner], family: str) -> None:
    """Losses and every gradient equal the first formulas, with min-SNR weights, an offset and a perturbation."""
    losses, gradients = update(learners[family])
    expected, of_formula = written_out(learners[family], family)
    assert losses.equal(expected)
    assert len(gradients) == len(of_formula) > 50
    assert all(mine.equal(theirs) for mine, theirs in zip(gradients, of_formula))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_has_its_golden_numbers(learners: dict[str, Learner], family: str) -> None:
    """What is drawn for a row, its loss and the gradients are those of the first release, but for a machine's rounding."""
    losses, gradients = update(learners[family])
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    assert losses.tolist() == pytest.approx(GOLDEN[family]["losses"], rel=1e-4)
    assert norm == pytest.approx(GOLDEN[family]["norm"], rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_losses_have_their_golden_numbers(learners: dict[str, Learner], family: str) -> None:
    """The bands are quarters of the 1,000 timesteps, and what is drawn in them is what it was."""
    learner = learners[family]
    sums = loss_sums(learner.base, learner.controlnet, learner.objective, [make_batch(learner.base)], seed=0)
    found = mean_losses(sums[None])
    assert found is not None
    assert found.right == pytest.approx(GOLDEN[family]["right"], rel=1e-4)
    assert found.shuffled == pytest.approx(GOLDEN[family]["shuffled"], rel=1e-4)
