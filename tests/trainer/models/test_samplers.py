"""`eval.sampler`: which there are, that each draws, and what is said of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.flow_formulas import trained
from support.flow_models import FLOWS
from support.thorough import slow_ones
from support.trainer_models import save_base

from trainer.errors import ModelError
from trainer.inference.generate import Request, Sampling, generate
from trainer.models.base import COPIED
from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Model, Recipe

CONDITION = Image.new("RGB", (32, 32), "white")


def pictures(base: Base, controlnet: Any) -> dict[str, bytes]:
    """By each sampler that the family knows, of one seed."""
    found = {}
    for name in ("auto", *base.samplers):
        pipe: Any = base.validation_pipeline(controlnet, name)
        pipe.set_progress_bar_config(disable=True)
        (picture,) = generate(pipe, [Request("a red disc", CONDITION, 3)], Sampling(steps=3, cfg=2.0))
        found[name] = picture.tobytes()
    return found


@pytest.mark.parametrize("family", [*FLOWS][:1] + slow_ones([*FLOWS][1:]))
def test_every_sampler_of_a_flow_draws_in_its_own_way(family: str, flow_bases: dict[str, Base]) -> None:
    """Euler is the family's own; the others, as many as its pipeline can tell their steps, draw other pictures."""
    base = flow_bases[family]
    found = pictures(base, trained(base))
    assert found.pop("auto") == found["euler"]
    assert len(set(found.values())) == len(found) == {"sd3": 4, "flux": 2, "qwen-image": 2, "z-image": 1}[family]


def test_every_sampler_of_noise_draws_in_its_own_way(tmp_path: Path) -> None:
    """Of bases that predict noise or velocity: UniPC is their own."""
    base = load_base(Model(base=str(save_base(tmp_path / "base"))))
    found = pictures(base, base.new_controlnet(COPIED))
    assert found.pop("auto") == found["unipc"]
    assert len(set(found.values())) == len(found) == 4


def test_a_sampler_that_a_family_does_not_know_is_refused_with_those_that_it_knows(flow_bases: dict[str, Base]) -> None:
    """Before a run begins, and of a pipeline: the message has the name, the family and the list."""
    recipe = Recipe.model_validate({"eval": {"sampler": "ddim"}, "train": {"steps": 1}})
    expected = 'sampler "ddim" is not known for bases of family "flux"; known are auto, euler, unipc'
    with pytest.raises(ModelError, match=expected):
        flow_bases["flux"].refuse(recipe)
    with pytest.raises(ModelError, match=expected):
        flow_bases["flux"].pipeline(flow_bases["flux"].new_controlnet(COPIED), "ddim")
