"""The loss: diffusers' own formulas are the reference, and what is random belongs to a row alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

import trainer
from trainer.models.loss import draw, draw_for_training, row_losses, squared_errors
from trainer.models.objectives.choose import objective_of
from trainer.models.objectives.diffusion import among
from trainer.models.objectives.protocol import Objective
from trainer.recipe.recipe import Train
from trainer.types import Batch, Latents

SHAPE = (4, 8, 8)
T = torch.tensor([0, 1, 250, 500, 998, 999])


def pair(prediction_type: str, **schedule: object) -> tuple[DDPMScheduler, Objective]:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction_type, **schedule)
    return scheduler, objective_of(scheduler)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noising_and_target_are_those_of_diffusers(prediction_type: str) -> None:
    """add_noise and the target equal DDPMScheduler's, for every part of the schedule."""
    scheduler, objective = pair(prediction_type)
    latents, noise = torch.randn(2, len(T), *SHAPE)
    assert torch.allclose(objective.add_noise(latents, noise, T), scheduler.add_noise(latents, noise, T), atol=1e-6)
    expected = noise if prediction_type == "epsilon" else scheduler.get_velocity(latents, noise, T)
    assert torch.allclose(objective.target(latents, noise, T), expected, atol=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_are_those_of_the_paper(gamma: float) -> None:
    """min(snr, gamma) / snr of noise, min(snr, gamma) / (snr + 1) of velocity, with the SNR of diffusers."""
    for prediction_type, offset in (("epsilon", 0), ("v_prediction", 1)):
        scheduler, objective = pair(prediction_type)
        snr = compute_snr(scheduler, T)
        assert torch.allclose(
            objective.weights(T, Train(snr_gamma=gamma)), snr.clamp(max=gamma) / (snr + offset), rtol=1e-4
        )


def test_without_gamma_every_row_counts_alike() -> None:
    """snr_gamma = 0 is the plain mean squared error."""
    assert weights_of(0.0).equal(torch.ones(len(T)))


def weights_of(gamma: float) -> torch.Tensor:
    return pair("epsilon")[1].weights(T, Train(snr_gamma=gamma))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_schedule_that_ends_in_pure_noise_has_finite_weights(prediction_type: str) -> None:
    """With zero terminal SNR the last timestep's weight is a number: 1 of noise, 0 of velocity."""
    _, objective = pair(prediction_type, rescale_betas_zero_snr=True)
    last = objective.weights(torch.tensor([999]), Train(snr_gamma=5.0)).item()
    assert last == (1.0 if prediction_type == "epsilon" else pytest.approx(0.0, abs=1e-6))


def test_the_error_of_a_row_is_its_own() -> None:
    """(B, C, h, w) -> (B,), whose mean is the usual loss of the batch."""
    prediction, target = torch.randn(2, 6, *SHAPE)
    errors = squared_errors(prediction, target)
    assert torch.allclose(errors.mean(), torch.nn.functional.mse_loss(prediction, target))
    assert torch.allclose(errors[3:4], squared_errors(prediction[3:4], target[3:4]))


def test_what_is_masked_does_not_count() -> None:
    """Errors are multiplied by the mask: of a half that is black nothing counts, of one that is grey a half."""
    prediction, target = torch.randn(2, 3, *SHAPE)
    mask = torch.ones(3, 1, 8, 8)
    assert squared_errors(prediction, target, mask).equal(squared_errors(prediction, target))
    mask[0, :, :4], mask[1], mask[2] = 0, 0.5, 0
    found, whole = squared_errors(prediction, target, mask), (prediction - target).square()
    assert torch.allclose(found, torch.stack([whole[0, :, 4:].mean() / 2, whole[1].mean() / 2, torch.tensor(0.0)]))


def rows(*drawn: tuple[str, int], shape: tuple[int, ...] = (4, 8, 8)) -> Batch:
    """A batch of (key, epoch); draws look at nothing else but the latents' shape."""
    empty = torch.zeros(len(drawn), *shape)
    keys, epochs = map(list, zip(*drawn))
    return Batch(keys, epochs, keys, torch.zeros(len(drawn), 3, 8, 8), Latents(empty, empty))


def test_what_is_random_belongs_to_the_row() -> None:
    """A row has the same timestep and noise in any batch, at any place; another epoch or seed gives others."""
    together = draw(rows(("a", 3), ("b", 3), ("c", 3), ("c", 4)), seed=7, times=among(range(1000)))
    alone = draw(rows(("c", 3)), seed=7, times=among(range(1000)))
    assert together.timesteps[2] == alone.timesteps[0]
    assert together.noise[2].equal(alone.noise[0])
    assert together.posterior[2].equal(alone.posterior[0])
    assert not together.noise[3].equal(alone.noise[0])
    assert not draw(rows(("c", 3)), seed=8, times=among(range(1000))).noise.equal(alone.noise)


def test_further_noise_changes_nothing_that_was_drawn_before() -> None:
    """With an offset and a perturbation the timesteps, the posterior and the noise itself are those without them."""
    batch = rows(("a", 1), ("b", 2))
    plain = draw(batch, seed=7, times=among(range(1000)))
    assert plain.further is None
    found = draw(batch, seed=7, times=among(range(1000)), offset=0.5, further=0.1)
    assert found.timesteps.equal(plain.timesteps)
    assert found.posterior.equal(plain.posterior)
    offset = found.noise - plain.noise
    torch.testing.assert_close(offset, offset[:, :, :1, :1].expand_as(offset), atol=1e-6, rtol=0)
    assert found.further is not None
    assert draw(batch, seed=7, times=among(range(1000)), further=0.1).noise.equal(plain.noise)


def test_noise_of_a_recipe_has_its_sizes() -> None:
    """Over 2,000 rows: channels' offsets vary by `noise_offset`, the further noise by `input_perturbation`."""
    many = rows(*((str(n), 1) for n in range(2000)), shape=(2, 4, 4))
    plain = draw_for_training(many, Train(), pair("epsilon")[1])
    found = draw_for_training(many, Train(noise_offset=0.2, input_perturbation=0.1), pair("epsilon")[1])
    assert (found.noise - plain.noise).std().item() == pytest.approx(0.2, rel=0.05)
    assert found.further is not None
    assert found.further.std().item() == pytest.approx(0.1, rel=0.05)
    assert (found.further * found.noise).mean().abs() < 0.002


class Witness:
    """A base that sees what the denoiser sees, and says that there is nothing."""

    denoiser = torch.zeros(())  # on the CPU, float32

    def predict(self, controlnet: Any, noisy: torch.Tensor, timesteps: torch.Tensor, batch: Batch) -> torch.Tensor:
        self.noisy = noisy
        return torch.zeros_like(noisy)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perturbation_is_as_in_the_scripts_of_diffusers(prediction_type: str) -> None:
    """train_text_to_image.py: new_noise = noise + perturbation goes into the latents, and noise alone is the target."""
    scheduler, objective = pair(prediction_type)
    batch, witness = rows(*((str(n), 1) for n in range(3))), Witness()
    batch = replace(batch, latents=Latents(torch.randn(3, *SHAPE), torch.rand(3, *SHAPE)))
    draws = draw(batch, seed=1, times=among(range(1000)), offset=0.1, further=0.2)
    losses = row_losses(witness, None, objective, batch, draws)  # type: ignore[arg-type]
    assert batch.latents is not None
    assert draws.further is not None
    latents = batch.latents.sample(draws.posterior)
    noisy = scheduler.add_noise(latents, draws.noise + draws.further, draws.timesteps)
    torch.testing.assert_close(witness.noisy, noisy)
    target = draws.noise
    if prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, draws.noise, draws.timesteps)
    torch.testing.assert_close(losses, target.square().mean((1, 2, 3)))


def test_draws_are_normal_uniform_and_independent() -> None:
    """Over 2,000 rows: timesteps fill their range, noise has mean 0 and variance 1, posterior and noise are unrelated."""
    many = rows(*((str(n), 1) for n in range(2000)), shape=(1, 4, 4))
    draws = draw(many, seed=0, times=among(range(250, 500)))
    assert (int(draws.timesteps.min()), int(draws.timesteps.max())) == (250, 499)
    assert draws.timesteps.float().mean().item() == pytest.approx(374.5, abs=6)
    assert draws.noise.mean().abs() < 0.02
    assert draws.noise.var().item() == pytest.approx(1, abs=0.03)
    assert (draws.noise * draws.posterior).mean().abs() < 0.02


def test_objectives_alone_know_a_schedule() -> None:
    """No other file of the trainer names the table of a scheduler that says how much of a picture is left."""
    folder = Path(trainer.__file__).parent
    known = {
        path.relative_to(folder).parts[:2] for path in folder.rglob("*.py") if "alphas_cumprod" in path.read_text()
    }
    assert known == {("models", "objectives")}
