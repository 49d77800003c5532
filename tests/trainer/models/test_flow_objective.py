"""Flows: noising, shifts, weights and draws are those of diffusers' scheduler and script."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux_controlnet import calculate_shift
from diffusers.training_utils import compute_loss_weighting_for_sd3

from trainer.errors import RecipeError
from trainer.models.objectives.choose import objective_of
from trainer.models.objectives.flow import Flow
from trainer.models.objectives.protocol import Times
from trainer.recipe.recipe import Train

DYNAMIC: dict[str, Any] = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


def drawn(times: Times, count: int = 2000) -> torch.Tensor:
    return torch.stack([times(torch.Generator().manual_seed(seed)) for seed in range(count)])


def test_noising_and_target_are_those_of_diffusers() -> None:
    """add_noise equals scale_noise at the scheduler's own timesteps; the target is the way from picture to noise."""
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    flow, steps = objective_of(scheduler), torch.tensor([0, 400, 999])
    latents, noise = torch.randn(2, 3, 4, 8, 8)
    expected = scheduler.scale_noise(latents, scheduler.timesteps[steps], noise)
    torch.testing.assert_close(flow.add_noise(latents, noise, scheduler.sigmas[steps]), expected)
    assert flow.target(latents, noise, scheduler.sigmas[steps]).equal(noise - latents)
    assert flow.name == "flow"


@pytest.mark.parametrize("weighting", ["none", "cosmap"])
def test_weights_are_those_of_diffusers(weighting: Any) -> None:
    """compute_loss_weighting_for_sd3; preconditioned is sigma squared."""
    sigmas = torch.tensor([0.01, 0.3, 1.0])
    found = Flow().weights(sigmas, Train(weighting=weighting))
    torch.testing.assert_close(found, compute_loss_weighting_for_sd3(weighting, sigmas))
    assert Flow().weights(sigmas, Train(weighting="preconditioned")).equal(sigmas.square())


def test_uniform_sigmas_are_shifted_as_the_scheduler_shifts_its_own() -> None:
    """Over 2,000 draws with shift 3: the quartiles of the scheduler's 1,000 sigmas, in (0, 1]."""
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    sigmas = drawn(objective_of(scheduler).times(Train(timesteps="uniform"), (64, 64)))
    quarters = torch.tensor([0.25, 0.5, 0.75])
    torch.testing.assert_close(sigmas.quantile(quarters), scheduler.sigmas.quantile(quarters), atol=0.02, rtol=0)
    assert (sigmas > 0).all()
    assert (sigmas <= 1).all()
    own = drawn(objective_of(scheduler).times(Train(timesteps="uniform", shift=1.0), (64, 64)))
    assert own.mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (128, 128)])
def test_the_shift_follows_the_resolution_as_in_sampling(size: tuple[int, int]) -> None:
    """Of a base with dynamic shifting: the median of logit-normal draws is where its scheduler puts sigma = 0.5."""
    scheduler: Any = FlowMatchEulerDiscreteScheduler(**DYNAMIC)
    tokens = size[0] * size[1] // 4
    scheduler.set_timesteps(sigmas=np.array([0.5]), mu=calculate_shift(tokens, 256, 4096, 0.5, 1.15))
    sigmas = drawn(objective_of(scheduler).times(Train(), size))
    assert sigmas.median().item() == pytest.approx(scheduler.sigmas[0].item(), abs=0.02)


def test_bands_are_quarters_of_the_way() -> None:
    """From the least noise to the most, each evenly, whatever training draws."""
    for band in range(4):
        sigmas = drawn(Flow(3.0).band(band, 4), 500)
        assert (sigmas > band / 4).all()
        assert (sigmas <= (band + 1) / 4).all()
        assert sigmas.mean().item() == pytest.approx((band + 0.5) / 4, abs=0.02)


def test_settings_of_another_objective_are_refused() -> None:
    """min-SNR weights for a flow, and a flow's draws, shift and weights for a schedule, each by its key and with a remedy."""
    with pytest.raises(RecipeError, match=r"train\.snr_gamma = 5 .* say train\.snr_gamma = 0"):
        Flow().refuse(Train(snr_gamma=5))
    diffusion = objective_of(DDPMScheduler())
    for key, value in {"timesteps": "logit_normal", "shift": 3.0, "weighting": "cosmap"}.items():
        with pytest.raises(RecipeError, match=rf"train\.{key} = .* say train\.{key} = "):
            diffusion.refuse(Train.model_validate({key: value}))
    diffusion.refuse(Train(timesteps="uniform"))
    Flow().refuse(Train(timesteps="logit_normal", shift=3.0, weighting="cosmap"))
