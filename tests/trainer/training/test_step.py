"""What learns: the plain formula of diffusers is the reference; accumulation, memory and looking change nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.learners import RATE, make_batch, make_learner, split, stir, weights
from support.trainer_models import FAMILIES, save_base
from torch import Tensor

from trainer.errors import TrainingStopped
from trainer.models.families import Base, load_base
from trainer.models.loss import draw, row_losses
from trainer.models.objectives.diffusion import among
from trainer.models.objectives.epsilon import Epsilon
from trainer.recipe.recipe import Recipe
from trainer.training.condition_gap import BANDS, loss_sums, mean_losses
from trainer.training.state import read_state
from trainer.training.step import snapshot
from trainer.types import Batch, Latents


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_base(tmp_path_factory.mktemp("bases") / family, family) for family in FAMILIES}


def sha256(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def plain_loss(base: Base, controlnet: Any, batch: Batch, draws: Any) -> Tensor:
    """The formula of diffusers' training scripts, with its scheduler, for SD and SDXL."""
    assert batch.latents is not None
    latents = batch.latents.mean + batch.latents.std * draws.posterior
    noisy = base.scheduler.add_noise(latents, draws.noise, draws.timesteps)
    text, condition = batch.text["prompt_embeds"], batch.conditions.float() / 255
    added = {"text_embeds": batch.text["pooled"], "time_ids": batch.time_ids} if base.family == "sdxl" else None
    down, mid = controlnet(noisy, draws.timesteps, text, condition, added_cond_kwargs=added, return_dict=False)
    output = base.denoiser(
        noisy,
        draws.timesteps,
        text,
        added_cond_kwargs=added,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    velocity = base.scheduler.config.prediction_type == "v_prediction"
    target = base.scheduler.get_velocity(latents, draws.noise, draws.timesteps) if velocity else draws.noise
    return F.mse_loss(output.float(), target.float())


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_plain_formula(bases: dict[str, Path], family: str) -> None:
    """Same weights, rows, noise and timesteps: the loss and every gradient equal diffusers' own formula."""
    learner = make_learner(bases[family])
    batch = make_batch(learner.base)
    draws = draw(batch, seed=0, times=among(range(1000)))
    losses = row_losses(learner.base, learner.controlnet, learner.objective, batch, draws)
    losses.mean().backward()
    ours = [parameter.grad.clone() for parameter in learner.controlnet.parameters()]
    learner.controlnet.zero_grad()
    expected = plain_loss(learner.base, learner.controlnet, batch, draws)
    expected.backward()
    assert losses.mean().item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, parameter in zip(ours, learner.controlnet.parameters()):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_first_a_controlnet_changes_nothing(bases: dict[str, Path], family: str) -> None:
    """At step 0 the output is the base model's, whatever the condition: the condition gap is exactly 1."""
    base = load_base(Recipe.model_validate({"model": {"base": str(bases[family])}}).model)
    controlnet, batch = base.new_controlnet("unet"), make_batch(base)
    noisy, timesteps = torch.randn(4, 4, 8, 8), torch.tensor([0, 300, 600, 999])
    with torch.no_grad():
        steered = base.predict(controlnet, noisy, timesteps, batch)
        alone = base.denoiser(noisy, timesteps, **base.condition_kwargs(batch, torch.float32)).sample
    torch.testing.assert_close(steered, alone, rtol=0, atol=1e-6)
    found = mean_losses(loss_sums(base, controlnet, base.objective, [batch], seed=0)[None])
    assert found is not None
    assert found.gap == pytest.approx(1, abs=1e-6)


def test_passes_of_any_size_learn_the_same(bases: dict[str, Path]) -> None:
    """An update of 4 rows in 1, 2 or 4 forward passes gives the same weights, and rounding apart the same norm."""
    results = []
    for size in (4, 2, 1):
        learner = make_learner(bases["sd15"], micro_batch=size, eps=1e-3)  # Adam blows up rounding of tiny gradients
        for _ in range(2):
            step = learner.step(split(make_batch(learner.base), size), RATE)
        results.append((weights(learner), step.norm))
    for found, norm in results[1:]:
        torch.testing.assert_close(norm, results[0][1], rtol=1e-4, atol=0)
        for mine, expected in zip(found, results[0][0], strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-3, atol=2e-5)


def test_only_the_last_pass_of_an_update_steps(bases: dict[str, Path]) -> None:
    """Weights move with the pass that completes `batch` rows, not before."""
    learner = make_learner(bases["sd15"], micro_batch=2)
    before = weights(learner)

    def passes() -> Iterator[Batch]:
        for part in split(make_batch(learner.base), 2):
            assert all(a.equal(b) for a, b in zip(weights(learner), before))
            yield part

    step = learner.step(passes(), RATE)
    assert step.keys == ["row0", "row1", "row2", "row3"]
    assert step.losses.shape == (4,)
    assert not all(a.equal(b) for a, b in zip(weights(learner), before))


def test_the_base_is_never_changed(bases: dict[str, Path]) -> None:
    """Hashes of UNet, VAE and text encoders before and after three updates are equal; no gradient is kept for them."""
    learner = make_learner(bases["sd15"])
    frozen = (learner.base.denoiser, learner.base.vae, *learner.base.text_encoders)
    before = [sha256(module) for module in frozen]
    for _ in range(3):
        learner.step([make_batch(learner.base)], RATE)
    assert [sha256(module) for module in frozen] == before
    assert all(parameter.grad is None for module in frozen for parameter in module.parameters())


def test_gradient_checkpointing_changes_no_gradient(bases: dict[str, Path]) -> None:
    """Less memory, the same update."""
    results = []
    for checkpointing in (False, True):
        learner = make_learner(bases["sdxl"], gradient_checkpointing=checkpointing)
        learner.step([make_batch(learner.base)], RATE)
        results.append(weights(learner))
    for mine, expected in zip(*results):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_rehearsal_leaves_no_trace(bases: dict[str, Path]) -> None:
    """After a trial update the weights, the optimizer and the updates that follow are as without it."""
    results = []
    for rehearsed in (False, True):
        learner = make_learner(bases["sd15"], micro_batch=2)
        batch = make_batch(learner.base)
        before = weights(learner)
        if rehearsed:
            learner.rehearse(batch.take([0, 1, 2, 3, 0, 1]))
            assert all(a.equal(b) for a, b in zip(weights(learner), before))
            assert not learner.optimizer.state
        learner.step(split(batch, 2), RATE)
        results.append(weights(learner))
    assert all(a.equal(b) for a, b in zip(*results))


def test_a_rehearsal_tells_of_a_loss_that_is_no_number(bases: dict[str, Path]) -> None:
    """Latents that are not finite are found before the first step, and the weights stay as they were."""
    learner = make_learner(bases["sd15"])
    batch, before = make_batch(learner.base), weights(learner)
    assert batch.latents is not None
    broken = replace(batch, latents=Latents(batch.latents.mean * float("nan"), batch.latents.std))
    with pytest.raises(TrainingStopped, match="very first batch is not a finite number"):
        learner.rehearse(broken)
    assert all(a.equal(b) for a, b in zip(weights(learner), before))


def test_a_saved_learner_goes_on_exactly(bases: dict[str, Path], tmp_path: Path) -> None:
    """Two updates, saved, loaded by a new learner, and two more: weights and average equal four updates."""
    whole, first = make_learner(bases["sd15"]), make_learner(bases["sd15"])
    batch = make_batch(whole.base)
    for _ in range(4):
        whole.step([batch], RATE)
    for _ in range(2):
        first.step([batch], RATE)
    first.state().write(tmp_path)
    second = make_learner(bases["sd15"])
    stir(second.controlnet)
    second.restore(read_state(tmp_path, second.controlnet), update=2)
    for _ in range(2):
        second.step([batch], RATE)
    for which in ("raw", "best"):
        assert all(a.equal(b) for a, b in zip(second.weights(which), whole.weights(which)))
    assert not all(a.equal(b) for a, b in zip(whole.weights("raw"), whole.weights("best")))


def test_the_average_is_that_of_diffusers(bases: dict[str, Path]) -> None:
    """shadow = decay shadow + (1 - decay) weights, with the warm-up (1 + n) / (10 + n) below the decay."""
    learner = make_learner(bases["sd15"])
    shadow = weights(learner)
    for update in (1, 2, 3):
        learner.step([make_batch(learner.base)], RATE)
        decay = 0 if update == 1 else min(0.5, update / (9 + update))
        shadow = [decay * s + (1 - decay) * w for s, w in zip(shadow, weights(learner))]
    for mine, expected in zip(learner.weights("best"), shadow, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-7)


def test_a_snapshot_is_a_copy(bases: dict[str, Path]) -> None:
    """It has the averaged weights, and neither shares memory with the training nor takes gradients."""
    learner = make_learner(bases["sd15"])
    for _ in range(2):
        learner.step([make_batch(learner.base)], RATE)
    copy = learner.snapshot()
    for mine, average, trained in zip(copy.parameters(), learner.weights("best"), learner.weights("raw")):
        assert mine.equal(average)
        assert mine.data_ptr() not in (average.data_ptr(), trained.data_ptr())
        assert not mine.requires_grad
    half = snapshot(learner.controlnet, learner.weights("raw"), torch.bfloat16)
    assert half.dtype == torch.bfloat16


class Oracle:
    """A base that knows the noise, off by 1 with a row's own condition and by more with another's."""

    denoiser = torch.zeros(())  # on the CPU, float32

    def __init__(self, objective: Epsilon) -> None:
        self.objective = objective

    def complete(self, batch: Batch) -> Batch:
        return batch

    def predict(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        alpha = self.objective.alphas[timesteps][:, None, None, None]
        own = torch.tensor([float(key) for key in batch.keys])
        off = 1 + (batch.conditions.float().mean((1, 2, 3)) - own).abs()
        return noisy / (1 - alpha).sqrt() + off[:, None, None, None]


def test_the_condition_gap_is_the_ratio_of_the_losses() -> None:
    """Rows 1, 2, 4 with the conditions of 4, 1, 2: errors of (4, 2, 3) squared against 1, in every band, every time."""
    objective = Epsilon(torch.linspace(0.99, 0.1, 1000))
    conditions = torch.tensor([1, 2, 4], dtype=torch.uint8)[:, None, None, None].expand(3, 3, 8, 8)
    nothing = torch.zeros(3, 4, 1, 1)  # as latents: what is noisy is noise alone
    batch = Batch(["1", "2", "4"], [0] * 3, [""] * 3, conditions, Latents(nothing, nothing))
    sums = loss_sums(Oracle(objective), None, objective, [batch, batch], seed=0)
    found = mean_losses(sums[None])
    assert found is not None
    assert found.right == pytest.approx((1,) * BANDS, rel=1e-4)
    assert found.shuffled == pytest.approx(((16 + 4 + 9) / 3,) * BANDS, rel=1e-4)
    assert found.gap == pytest.approx(29 / 3, rel=1e-4)
    assert found.sentence() == "the condition is being used: 9.7 x"
    assert mean_losses(2 * sums[None]) == found


def test_a_lone_row_has_no_other_condition(bases: dict[str, Path]) -> None:
    """A batch of one row is left out, and without any other there is no held-out loss."""
    learner = make_learner(bases["sd15"])
    sums = loss_sums(learner.base, learner.controlnet, learner.objective, [make_batch(learner.base, 1)], seed=0)
    assert mean_losses(sums[None]) is None
