"""Validation: it looks, and changes nothing; the gap of every band is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from support.learners import make_learner
from support.noise import edges
from support.trainer_models import save_base

from trainer.training.condition_gap import HeldOutLosses
from trainer.training.validate import Validator, losses_remark
from trainer.types import ONE_PROCESS


def test_a_rehearsal_in_fp16_leaves_a_vae_that_overflows_as_it_was(tmp_path: Path) -> None:
    """Its float32 weights are the same, bit for bit, after pictures were made in fp16; so are dtype and place."""
    learner = make_learner(save_base(tmp_path / "base"))
    learner.base.to("cpu", torch.float16)
    before = {name: weight.clone() for name, weight in learner.base.vae.state_dict().items()}
    assert not all(weight.equal(weight.half().float()) for weight in before.values()), "nothing could be lost"
    Image.fromarray(edges(0, (64, 64))).save(tmp_path / "map.png")
    settings = {"conditions": (str(tmp_path / "map.png"),), "prompts": ("a disc",), "sampler_steps": 2}
    recipe = learner.recipe
    learner.recipe = recipe.model_copy(update={"eval": recipe.eval.model_copy(update=settings)})
    Validator(learner, None, ONE_PROCESS).rehearse()
    after = learner.base.vae.state_dict()
    assert all(after[name].equal(weight) for name, weight in before.items())


@pytest.mark.parametrize("update", [1, 900])
def test_a_remark_has_the_gap_of_every_band(update: int) -> None:
    """Early and late, used or not: the geometric mean, and the four gaps from the least noise to the most."""
    for wrong in ((0.6, 0.3, 0.12, 0.06), (0.6, 0.3, 0.1, 0.02)):
        remark = losses_remark(HeldOutLosses((0.6, 0.3, 0.1, 0.02), wrong), update, 1000)
        gaps = ", ".join(f"{w / r:.2f}" for w, r in zip(wrong, (0.6, 0.3, 0.1, 0.02)))
        assert f"from the least noise to the most {gaps}" in remark


def test_a_gap_where_there_is_much_noise_is_seen() -> None:
    """Bands of 61, 28, 9 and 2 % of the loss, the noisiest twice as bad with wrong conditions: 2 ** (1 / 4), not 1.02."""
    found = HeldOutLosses((0.61, 0.28, 0.09, 0.02), (0.61, 0.28, 0.09, 0.04))
    assert found.gap == pytest.approx(2 ** (1 / 4))
    assert found.used
