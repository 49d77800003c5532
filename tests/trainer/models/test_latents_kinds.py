"""ControlNets of SD 3, Qwen-Image and Z-Image for several kinds are diffusers' with more channels, and learn what plain calls would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.flow_formulas import OUTPUT, condition_latents, trained
from support.flow_models import save_flow_base
from support.kinds import KINDS, kinds_batch, learns_as
from torch import Tensor

from trainer.errors import ModelError
from trainer.evaluation.pictures import another
from trainer.models.families import Base, load_base
from trainer.models.kinds import condition_name
from trainer.models.loss import draw_for_training
from trainer.recipe.recipe import Model, Train

FAMILIES = ("sd3", "qwen-image", "z-image")
BELOW = {  # the first layer that sees a condition
    "sd3": "pos_embed_input.proj.weight",
    "qwen-image": "controlnet_x_embedder.weight",
    "z-image": "control_all_x_embedder.2-1.weight",
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_flow_base(tmp_path_factory.mktemp("flow") / "base", request.param)


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    """Not to be changed."""
    return load_base(Model(base=str(folder)), kinds=KINDS)


def channels(base: Base, maps: Mapping[str, Tensor]) -> Tensor:
    """(1, 15, h, w) of maps (1, 3, H, W) uint8: of each kind four latents and a one, or zeros."""
    nothing = torch.zeros(1, 5, 8, 8)
    known = {kind: condition_latents(base, map_ / 127.5 - 1) for kind, map_ in maps.items()}
    return torch.cat([torch.cat([known[k], nothing[:, :1] + 1], 1) if k in maps else nothing for k in KINDS], 1)


def test_loss_and_gradients_are_those_of_plain_calls(base: Base) -> None:
    """A row's loss is that of diffusers' models called with the row alone, its maps in their channels and zeros for the others."""
    batch, controlnet = kinds_batch(base), trained(base)
    plain = trained(base)
    plain.load_state_dict(controlnet.state_dict())
    draws = draw_for_training(batch, Train(seed=1), base.objective)

    def said(noisy: Tensor, row: int) -> Tensor:
        one = batch.take([row])
        maps = {KINDS[kind]: one.conditions[:, 3 * kind : 3 * kind + 3] for kind in batch.given[row]}
        timesteps = draws.timesteps[row : row + 1] * 1000
        output: Tensor = OUTPUT[base.family](
            base, plain, noisy[row : row + 1], timesteps, channels(base, maps), one.text
        )
        return output

    learns_as(base, batch, controlnet, plain, draws, said)


def test_it_begins_as_the_base(base: Base) -> None:
    """At first no map changes anything of the output."""
    batch, made = kinds_batch(base), base.new_controlnet("unet")
    noisy, sigmas = torch.randn(4, 4, 8, 8), torch.tensor([0.1, 0.4, 0.7, 1.0])
    other = batch.with_others_conditions().with_all_given([1])
    with torch.no_grad():
        assert base.predict(made, noisy, sigmas, batch).equal(base.predict(made, noisy, sigmas, other))
        assert not base.predict(trained(base), noisy, sigmas, batch).equal(base.predict(made, noisy, sigmas, batch))


def test_z_image_begins_with_its_own_embedding(tmp_path: Path) -> None:
    """Given one map of any kind, a new ControlNet embeds it as one of that kind alone does."""
    folder = save_flow_base(tmp_path / "base", "z-image")
    one, several = load_base(Model(base=str(folder))), load_base(Model(base=str(folder)), kinds=KINDS)
    embedded = one.new_controlnet("unet").control_all_x_embedder["2-1"]
    of_kinds = several.new_controlnet("unet").control_all_x_embedder["2-1"]
    squares = torch.randn(7, 4, 4)  # (tokens, places, C)
    for kind in range(3):
        wide = torch.zeros(7, 4, 15)
        wide[..., 5 * kind : 5 * kind + 4], wide[..., 5 * kind + 4] = squares, 1
        torch.testing.assert_close(of_kinds(wide.flatten(1)), embedded(squares.flatten(1)))


@pytest.mark.slow
def test_the_pipeline_shows_all_maps(base: Base, tmp_path: Path) -> None:
    """Its ControlNet is called with the channels of all maps, a row for each picture, guidance or not; each map makes a difference."""
    controlnet = trained(base)
    controlnet.save_pretrained(tmp_path / "saved")
    type(controlnet).from_pretrained(tmp_path / "saved")  # without a word of the trainer's
    arrays = np.random.default_rng(0).integers(0, 256, (2, 2, 64, 64, 3), dtype=np.uint8)
    maps = {kind: [Image.fromarray(one) for one in two] for kind, two in zip(("canny", "tile"), arrays)}
    pipe: Any = base.pipeline(controlnet)
    pipe.set_progress_bar_config(disable=True)
    name, seen = condition_name(pipe), list[Any]()

    def made(prompts: list[str], **how: Any) -> np.ndarray:
        how = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "np"} | how
        return np.asarray(pipe([*prompts], generator=torch.Generator().manual_seed(0), **how).images)

    def look(called: Any, positional: Any, named: Any, _: Any) -> None:
        told = signature(called.forward).bind(*positional, **named).arguments
        seen.append(told["control_context" if base.family == "z-image" else "controlnet_cond"])

    prompts, wanted = ["a disc", "a box"], []
    for number in range(2):
        pixels = {kind: torch.from_numpy(two[number]).permute(2, 0, 1)[None] for kind, two in zip(maps, arrays)}
        with torch.no_grad():
            wanted.append(channels(base, pixels)[0])
    both = made(prompts, **{name: maps}, num_images_per_prompt=2)
    assert len(both) == 4
    for second in ({"canny": maps["canny"]}, {"tile": maps["tile"]}, {**maps, "tile": maps["tile"][::-1]}):
        assert not np.allclose(both, made(prompts, **{name: second}, num_images_per_prompt=2), atol=1e-4)
    with another(pipe, str(tmp_path / "saved")):
        pipe.controlnet.register_forward_hook(look, with_kwargs=True)
        assert np.allclose(both, made(prompts, **{name: maps}, num_images_per_prompt=2), atol=1e-4)
    for condition in seen:
        shown = condition if base.family == "qwen-image" else torch.stack(list(condition)).reshape(-1, 15, 8, 8)
        expected = base.for_controlnet(torch.stack([wanted[0], wanted[0], wanted[1], wanted[1]]))  # type: ignore[attr-defined]
        expected = torch.stack(list(expected)).reshape(-1, *shown.shape[1:])
        assert len(shown) in (4, 8)
        torch.testing.assert_close(
            shown, expected.repeat(len(shown) // 4, *[1] * (shown.ndim - 1)), rtol=1e-4, atol=1e-4
        )
    with pytest.raises(ModelError, match="say which of them a map is"):
        made(prompts, **{name: maps["canny"]})


def test_a_controlnet_to_go_on_from_has_the_kinds_of_the_recipe(folder: Path, base: Base, tmp_path: Path) -> None:
    """In its order; one of one kind is refused, and so is one of several for one kind."""
    weights, one = tmp_path / "output" / "raw", load_base(Model(base=str(folder)))
    made = trained(base)
    made.save_pretrained(weights)
    first = BELOW[base.family]
    assert base.new_controlnet(str(weights)).state_dict()[first].equal(made.state_dict()[first])
    kinds = [{"kind": kind} for kind in KINDS[::-1]]
    (weights.parent / "condition.json").write_text(json.dumps({"conditions": kinds}))
    with pytest.raises(ModelError, match=r"was made for tile, softedge, canny, and data\.conditions has canny, so"):
        base.new_controlnet(str(weights))
    with pytest.raises(ModelError, match=r"does not fit data\.conditions: its \w+ is \d+, and it must be"):
        one.new_controlnet(str(weights))
    one.new_controlnet("unet").save_pretrained(tmp_path / "one")
    with pytest.raises(ModelError, match=r"does not fit data\.conditions: its \w+ is \d+, and it must be"):
        base.new_controlnet(str(tmp_path / "one"))
