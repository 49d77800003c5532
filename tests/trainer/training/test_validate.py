"""Validation: it looks, and changes nothing; the gap of every band is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from support.learners import make_learner
from support.noise import edges
from support.trainer_models import save_base

from trainer.recipe.toml import parse_recipe
from trainer.training.condition_gap import HeldOutLosses
from trainer.training.validate import Validator, comparable, looked_at, losses_remark
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


def test_what_does_not_compare_is_told_and_forgotten() -> None:
    """A run that goes on with other held-out rows, or pictures drawn otherwise, has no best one of before, and says so; other keys of
    [eval] and what only prolongs the run change nothing."""
    known = {
        "loss": 0.2,
        "val_loss": 0.1,
        "fidelity": 0.3,
        "fidelity_real_canny": 0.9,
        "best_fidelity": 0.4,
        "best_update": 20,
    }
    before = looked_at(parse_recipe({}), None)
    assert comparable(known, before, looked_at(parse_recipe({"eval": {"every": 7, "samples": 1}}), None)) == (known, [])
    assert comparable(known, {}, before) == (known, [])
    drawn, rows = ({"eval": {"fidelity": True, key: 9}} for key in ("sampler_steps", "loss_rows"))
    kept, notes = comparable(known, before, looked_at(parse_recipe(drawn), None))
    assert (kept, len(notes), "faithful/" in notes[0]) == ({"loss": 0.2, "val_loss": 0.1}, 1, True)
    kept, notes = comparable(known, before, looked_at(parse_recipe(rows), None))
    assert (kept, len(notes), "held-out losses" in notes[0]) == (known, 1, True)
