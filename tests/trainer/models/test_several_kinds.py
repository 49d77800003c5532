"""One ControlNet of several kinds of conditions is a model of diffusers, and learns what a plain call of that would.

Of SDXL it is the union model; of SD 1.5 and 2 a ControlNetModel that has channels for each kind.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
)
from PIL import Image
from support.kinds import KINDS, NUMBERS, alone, kinds_batch, learns_as, told
from support.learners import stir
from support.trainer_models import save_base
from torch import Tensor

from trainer.errors import ModelError
from trainer.inference.generate import Request, Sampling, generate
from trainer.models.families import Base, load_base
from trainer.models.loss import draw
from trainer.models.objectives.diffusion import among
from trainer.recipe.recipe import Model, Recipe

NOISY, TIMESTEPS = (
    torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
    torch.tensor([10, 500, 900, 300]),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("several")
    return {family: save_base(place / family, family) for family in ("sd15", "sdxl")}


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, Base]:
    """Not to be changed."""
    return {family: load_base(Model(base=str(folder)), kinds=KINDS) for family, folder in folders.items()}


@pytest.fixture(params=["sd15", "sdxl"])
def base(bases: dict[str, Base], request: pytest.FixtureRequest) -> Base:
    return bases[request.param]


def learned(base: Base) -> Any:
    """A ControlNet as after a few updates."""
    made = base.new_controlnet("unet")
    stir(made)
    base.lend(made)
    return made


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def middle(base: Base, controlnet: Any, batch: Any) -> torch.Tensor:
    """What a ControlNet adds to the UNet's middle, (B, C, h, w)."""
    with torch.no_grad():
        return base.residuals(controlnet, NOISY, TIMESTEPS, batch)[1]  # type: ignore[attr-defined,no-any-return]


def test_loss_and_gradients_are_those_of_plain_calls(base: Base) -> None:
    """A row's loss is that of diffusers' model called with the row alone and the maps that it is given; so are the gradients."""
    batch, controlnet = kinds_batch(base), learned(base)
    plain = type(controlnet).from_config(controlnet.config)
    plain.load_state_dict(controlnet.state_dict())
    draws = draw(batch, seed=1, times=among(range(1000)))

    def said(noisy: Tensor, row: int) -> Tensor:
        down, mid = alone(plain, base, noisy, draws.timesteps, batch, row)
        one = base.condition_kwargs(batch.take([row]), noisy.dtype)
        output: Tensor = base.denoiser(
            *(noisy[row : row + 1], draws.timesteps[row : row + 1]),
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            **one,
        ).sample
        return output

    learns_as(base, batch, controlnet, plain, draws, said)


def test_it_begins_as_the_base(base: Base) -> None:
    """At first the output is the base's, and the copy has the weights of the UNet's encoder."""
    batch, made = kinds_batch(base), base.new_controlnet("unet")
    base.lend(made)
    with torch.no_grad():
        wanted = base.denoiser(NOISY, TIMESTEPS, **base.condition_kwargs(batch, NOISY.dtype)).sample
        assert base.predict(made, NOISY, TIMESTEPS, batch).equal(wanted)
    encoder = base.denoiser.state_dict()
    copied = {name: tensor for name, tensor in made.state_dict().items() if name in encoder}
    assert all(tensor.equal(encoder[name]) for name, tensor in copied.items())
    assert {"time_embedding.linear_1.weight", "conv_in.weight"} < copied.keys()


def test_a_copied_union_tells_nothing_apart_yet(bases: dict[str, Base]) -> None:
    """Sizes and pooled text are embedded as in the UNet, to which kinds add zeros."""
    made = bases["sdxl"].new_controlnet("unet")
    wanted = bases["sdxl"].denoiser.add_embedding.state_dict()
    assert all(tensor.equal(wanted[name]) for name, tensor in made.add_embedding.state_dict().items())
    assert not any(one.any() for one in made.control_add_embedding.linear_2.parameters())
    assert made.config.num_control_type == 8


def test_what_a_row_is_not_given_makes_no_difference(base: Base) -> None:
    """Other maps where a row is given none, and other rows beside it, change nothing of its residuals."""
    batch, controlnet = kinds_batch(base), learned(base)
    changed = batch.take(range(4))
    changed.conditions[0, 3:] = 0  # which is given the first kind alone
    changed.conditions[2] = 255
    mid, other = middle(base, controlnet, batch), middle(base, controlnet, changed)
    assert mid[[0, 1, 3]].equal(other[[0, 1, 3]])
    assert not mid[2].equal(other[2])


def test_a_black_map_is_not_the_same_as_none(base: Base) -> None:
    """A picture without edges or people says something."""
    batch, controlnet = kinds_batch(base), learned(base)
    batch.conditions[:, :3] = 0
    both, one = (middle(base, controlnet, batch.with_all_given(given)) for given in ((0, 1), (1,)))
    assert not torch.isclose(both, one).all()


def test_the_pipeline_makes_the_trainers_pictures(bases: dict[str, Base], base: Base, tmp_path: Path) -> None:
    """Two pictures of a batch are those that diffusers' own pipeline makes of the saved weights, one at a time."""
    controlnet = learned(base)
    controlnet.save_pretrained(tmp_path / "saved")
    maps = [Image.fromarray(one) for one in noise(4, 64, 64, 3)]
    wanted = [Request("a disc", map_, seed, ("canny", "tile")[seed // 2]) for seed, map_ in enumerate(maps)]
    pipe: Any = base.pipeline(controlnet)
    pipe.set_progress_bar_config(disable=True)
    ours = generate(pipe, wanted, Sampling(steps=2, cfg=5.0, batch=2))
    union = base is bases["sdxl"]
    kind: Any = StableDiffusionXLControlNetUnionPipeline if union else StableDiffusionControlNetPipeline
    further = {"add_watermarker": False} if union else {"requires_safety_checker": False}
    modules = {name: module for name, module in pipe.components.items() if name != "controlnet"}
    loaded = (ControlNetUnionModel if union else ControlNetModel).from_pretrained(tmp_path / "saved")
    plain = kind(**modules, **further, controlnet=loaded)
    plain.set_progress_bar_config(disable=True)
    assert type(pipe).__name__ == kind.__name__
    for request, mine in zip(wanted, ours):
        pixels = torch.from_numpy(np.array(request.condition)).permute(2, 0, 1)[None] / 255
        channels = told(loaded, {str(request.kind): pixels})["controlnet_cond"]
        numbers = {"control_image": [request.condition], "control_mode": [NUMBERS[str(request.kind)]]}
        theirs = plain(
            request.prompt,
            **(numbers if union else {"image": channels}),
            num_inference_steps=2,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(request.seed),
        ).images[0]
        assert np.abs(np.asarray(mine, int) - np.asarray(theirs, int)).max() <= 1
    assert np.abs(np.asarray(ours[0], int) - np.asarray(ours[1], int)).max() > 1


def test_a_pipeline_takes_maps_by_their_kinds(base: Base) -> None:
    """One or several of those that it knows, whatever their order; a map without its kind is refused, and so is another kind."""
    pipe: Any = base.pipeline(learned(base))
    pipe.set_progress_bar_config(disable=True)
    edges, tile = (Image.fromarray(one) for one in noise(2, 64, 64, 3))
    name = "control_image" if base.family == "sdxl" else "image"

    def made(maps: Any) -> np.ndarray:
        how = {"num_inference_steps": 1, "output_type": "np", "generator": torch.Generator().manual_seed(0)}
        return np.asarray(pipe("a disc", **{name: maps}, **how).images[0])

    both = made({"canny": edges, "tile": tile})
    assert np.allclose(both, made({"tile": tile, "canny": edges}), atol=1e-5)
    assert not np.allclose(both, made({"canny": edges}))
    with pytest.raises(ModelError, match="maps of depth: this ControlNet was trained on canny, softedge, tile"):
        made({"depth": edges})
    if base.family == "sd":
        with pytest.raises(ModelError, match=r'say which of them a map is, image=\{"canny": map}'):
            made(edges)


def test_what_is_missing_of_a_picture_is_known_among_other_kinds(folders: dict[str, Path]) -> None:
    """Black in maps of inpaint is -1, as where they are the only kind, in training and in the pipeline; elsewhere it is black."""
    base: Any = load_base(Model(base=str(folders["sd15"])), kinds=("inpaint", "canny"))
    batch = kinds_batch(base)
    batch.conditions[:, :6, :8] = 0
    seen = base.condition(
        replace(batch, conditions=batch.conditions[:, :6], given=[(0, 1), (0,), (1,), (0,)]), NOISY.dtype
    )
    assert seen.shape == (4, 8, 64, 64)
    assert [seen[0, n, 0, 0].item() for n in range(8)] == [-1, -1, -1, 1, 0, 0, 0, 1]
    assert not seen[1, 4:].any()
    assert not seen[2, :4].any()


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("canny", "blur"), "no number for blur; it has pose, depth"),
        (("canny", "depth", "lineart"), "canny and lineart are the same to SDXL's union ControlNet"),
        (("scribble", "softedge"), "leave one of them out"),
    ],
)
def test_kinds_that_the_union_cannot_tell_are_refused(
    bases: dict[str, Base], kinds: tuple[str, ...], message: str
) -> None:
    """A kind without a number, and two with the same one."""
    with pytest.raises(ModelError, match=message):
        replace(bases["sdxl"]).set_kinds(kinds)


def test_weights_of_a_union_are_not_shared_out(bases: dict[str, Base]) -> None:
    """Processes whose rows are given other numbers of maps would wait for each other; with channels each makes one pass."""
    recipe = Recipe.model_validate({"train": {"shard": "full"}})
    bases["sd15"].refuse(recipe)
    with pytest.raises(ModelError, match=r'train.shard = "full" needs as many passes of every process'):
        bases["sdxl"].refuse(recipe)


def test_a_union_to_go_on_from_must_know_the_kinds(
    folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path
) -> None:
    """Its weights are taken where it does; one of fewer kinds, or of one kind, is refused, and so is the union for one kind."""
    base = bases["sdxl"]
    union = learned(base)
    union.save_pretrained(tmp_path / "union")
    assert base.new_controlnet(str(tmp_path / "union")).task_embedding.equal(union.task_embedding)
    fewer = replace(base)
    fewer.set_kinds(("canny", "softedge"))
    few = fewer.new_controlnet("unet")
    assert few.config.num_control_type == 6
    few.save_pretrained(tmp_path / "few")
    with pytest.raises(ModelError, match="knows 6 kinds of conditions, and tile is not one of them"):
        base.new_controlnet(str(tmp_path / "few"))
    ControlNetModel.from_unet(base.denoiser).save_pretrained(tmp_path / "one")
    with pytest.raises(ModelError, match="is a ControlNetModel, and a ControlNetUnionModel is needed"):
        base.new_controlnet(str(tmp_path / "one"))
    with pytest.raises(ModelError, match="is a ControlNetUnionModel, and a ControlNetModel is needed"):
        load_base(Model(base=str(folders["sdxl"]))).new_controlnet(str(tmp_path / "union"))


def test_a_controlnet_of_one_kind_begins_as_one_of_several(
    folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path
) -> None:
    """Given any one map, it computes what it did of that map, up to rounding."""
    one = load_base(Model(base=str(folders["sd15"])))
    plain = learned(one)
    plain.save_pretrained(tmp_path / "one")
    base, batch = bases["sd15"], kinds_batch(bases["sd15"])
    made = base.new_controlnet(str(tmp_path / "one"))
    assert made.config.conditioning_channels == 12
    for number in range(3):
        single = replace(batch, conditions=batch.conditions[:, 3 * number : 3 * number + 3], given=())
        mid, wanted = middle(base, made, batch.with_all_given([number])), middle(one, plain, single)
        torch.testing.assert_close(mid, wanted, rtol=1e-5, atol=1e-6)


def test_channels_of_a_controlnet_to_go_on_from_are_those_of_the_recipe(
    folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path
) -> None:
    """One with as many is taken, unless its record has other kinds, or another order; with others it is refused."""
    base, weights = bases["sd15"], tmp_path / "output" / "raw"
    made = learned(base)
    made.save_pretrained(weights)

    def record(*kinds: str) -> None:
        (weights.parent / "condition.json").write_text(json.dumps({"conditions": [{"kind": kind} for kind in kinds]}))

    for kinds, wanted in (((None,), 3), (("canny", "tile"), 8)):
        other = load_base(Model(base=str(folders["sd15"])), kinds=kinds)
        with pytest.raises(ModelError, match=f"its conditioning_channels is 12, and it must be {wanted}"):
            other.new_controlnet(str(weights))
    first = "controlnet_cond_embedding.conv_in.weight"
    assert base.new_controlnet(str(weights)).state_dict()[first].equal(made.state_dict()[first])
    record(*KINDS)
    assert base.new_controlnet(str(weights)).state_dict()[first].equal(made.state_dict()[first])
    record(*KINDS[::-1])
    with pytest.raises(ModelError, match=r"was made for tile, softedge, canny, and data\.conditions has canny, so"):
        base.new_controlnet(str(weights))
