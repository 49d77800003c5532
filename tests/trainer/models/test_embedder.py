"""`model.embedder`: what a condition embedder lets through of a map as it begins, and where the key is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from support.flow_models import FLOWS
from support.trainer_models import FAMILIES

from bench.embedder import MAPS, arrives, embedder_of
from trainer.errors import ModelError, RecipeError
from trainer.models.base import COPIED
from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Model, Recipe
from trainer.recipe.toml import parse_recipe

EMBEDDER = "controlnet_cond_embedding"
SDXL_KINDS = ("canny", "depth")


def begun(base: Base, embedder: str, seed: int = 0) -> Any:
    """A ControlNet of the base, as `model.embedder` has it."""
    torch.manual_seed(seed)
    asked = load_base(base.model.model_copy(update={"embedder": embedder}), kinds=base.kinds)
    return asked.new_controlnet(COPIED)


@pytest.mark.parametrize("kind", MAPS)
def test_contrast_passes(kind: str) -> None:
    """Of what a map's places differ by a third and more arrives at the zero convolution, five times as much at the most; as
    diffusers draws weights, less than a fiftieth. Of SD's widths."""
    map_ = MAPS[kind](128)
    normed, usual = ([arrives(embedder_of(begins, seed), map_) for seed in range(3)] for begins in ("normed", "usual"))
    assert 1 / 3 < min(normed) <= max(normed) < 5
    assert max(usual) < 1 / 50


@pytest.mark.parametrize("family", FAMILIES)
def test_the_usual_one_is_that_of_diffusers(family: str, bases: dict[str, Base]) -> None:
    """Byte for byte what `ControlNetModel.from_unet` draws from the seed."""
    torch.manual_seed(0)
    theirs = ControlNetModel.from_unet(bases[family].denoiser).state_dict()
    torch.manual_seed(0)
    ours = bases[family].new_controlnet(COPIED).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(weight.equal(theirs[name]) for name, weight in ours.items())


def test_the_embedder_alone_begins_otherwise(bases: dict[str, Base]) -> None:
    """Everything else is the usual copy, its zero convolutions among it; one seed draws one embedder, another one another."""
    usual, normed, again, other = (
        begun(bases["sd15"], embedder, seed).state_dict()
        for embedder, seed in (("usual", 0), ("normed", 0), ("normed", 0), ("normed", 1))
    )
    changed = {name for name, weight in normed.items() if not weight.equal(usual[name])}
    assert changed == {name for name in normed if EMBEDDER in name and "conv_out" not in name}
    assert not any(normed[f"{EMBEDDER}.conv_out.{part}"].any() for part in ("weight", "bias"))
    assert all(weight.equal(again[name]) for name, weight in normed.items())
    assert not normed[f"{EMBEDDER}.conv_in.weight"].equal(other[f"{EMBEDDER}.conv_in.weight"])


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_so_it_is_of_several_kinds(family: str, folders: dict[str, Path]) -> None:
    """Channels of each kind, and SDXL's union: the first layer leaves a map of them a deviation of about 1."""
    torch.manual_seed(0)
    base = load_base(Model(base=str(folders[family]), embedder="normed"), kinds=SDXL_KINDS)
    first = getattr(base.new_controlnet(COPIED), EMBEDDER).conv_in
    left = first(torch.rand(1, first.in_channels, 32, 32)).flatten(2).std(2)
    assert 0.3 < left.square().mean().sqrt() < 3


@pytest.mark.parametrize("family", FLOWS)
def test_a_family_without_one_refuses_it(family: str, flow_folders: dict[str, Path]) -> None:
    """Latents need no such embedder; the message names the family and what to say."""
    model = Model(base=str(flow_folders[family]), embedder="normed")
    with pytest.raises(ModelError, match=rf'model\.embedder = "normed" is for bases with a UNet; .* "{family}" .* say'):
        load_base(model).refuse(Recipe(model=model))


def test_a_learned_one_is_not_drawn_anew() -> None:
    """With `model.init` of another ControlNet the key is refused, and the message names both."""
    with pytest.raises(RecipeError, match=r'model\.embedder = "normed" is how a copy .* model\.init = "some/where"'):
        parse_recipe({"model": {"init": "some/where", "embedder": "normed"}})
