"""One ControlNet of several kinds of conditions is diffusers' union model, and learns what a plain call of that would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, ControlNetUnionModel, StableDiffusionXLControlNetUnionPipeline
from PIL import Image
from support.kinds import KINDS, alone, kinds_batch
from support.learners import stir
from support.trainer_models import save_base

from trainer.errors import ModelError
from trainer.inference.generate import Request, Sampling, generate
from trainer.models.families import Base, load_base
from trainer.models.loss import draw, row_losses
from trainer.models.objectives.diffusion import among
from trainer.recipe.recipe import Model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("union") / "sdxl", "sdxl")


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    """Not to be changed."""
    return load_base(Model(base=str(folder)), kinds=KINDS)


@pytest.fixture
def union(base: Base) -> ControlNetUnionModel:
    """As after a few updates."""
    made = base.new_controlnet("unet")
    stir(made)
    base.lend(made)
    return made


def test_loss_and_gradients_are_those_of_plain_calls(base: Base, union: ControlNetUnionModel) -> None:
    """A row's loss is that of diffusers' model called with the row alone and the maps that it is given; so are the gradients."""
    batch, plain = kinds_batch(base), ControlNetUnionModel.from_config(union.config)
    plain.load_state_dict(union.state_dict())
    draws = draw(batch, seed=1, times=among(range(1000)))
    losses = row_losses(base, union, base.objective, batch, draws)
    assert batch.latents is not None
    noisy = base.objective.add_noise(batch.latents.sample(draws.posterior), draws.noise, draws.timesteps)
    for row in range(4):
        down, mid = alone(plain, base, noisy, draws.timesteps, batch, row)
        one = base.condition_kwargs(batch.take([row]), noisy.dtype)
        said = base.denoiser(
            *(noisy[row : row + 1], draws.timesteps[row : row + 1]),
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            **one,
        ).sample
        wanted = (said - draws.noise[row : row + 1]).square().mean()
        assert losses[row].item() == pytest.approx(wanted.item(), rel=1e-5)
        wanted.backward()
    losses.sum().backward()
    for (name, mine), theirs in zip(union.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_it_begins_as_the_base(base: Base) -> None:
    """At first the output is the base's, and the copy computes as the UNet's encoder: what tells kinds apart adds nothing."""
    batch, made = kinds_batch(base), base.new_controlnet("unet")
    base.lend(made)
    noisy, timesteps = torch.randn(4, 4, 8, 8), torch.tensor([10, 500, 900, 300])
    with torch.no_grad():
        wanted = base.denoiser(noisy, timesteps, **base.condition_kwargs(batch, noisy.dtype)).sample
        assert base.predict(made, noisy, timesteps, batch).equal(wanted)
    encoder = base.denoiser.state_dict()
    copied = {name: tensor for name, tensor in made.state_dict().items() if name in encoder}
    assert all(tensor.equal(encoder[name]) for name, tensor in copied.items())
    assert {"add_embedding.linear_1.weight", "conv_in.weight"} < copied.keys()
    assert not any(one.any() for one in made.control_add_embedding.linear_2.parameters())
    assert made.config.num_control_type == 8


def test_what_a_row_is_not_given_makes_no_difference(base: Base, union: ControlNetUnionModel) -> None:
    """Other maps where a row is given none, and other rows beside it, change nothing of its residuals."""
    batch = kinds_batch(base)
    noisy, timesteps = torch.randn(4, 4, 8, 8), torch.tensor([10, 500, 900, 300])
    changed = batch.take(range(4))
    changed.conditions[0, 3:] = 0  # which is given the first kind alone
    changed.conditions[2] = 255
    with torch.no_grad():
        (_, mid), (_, other) = (base.residuals(union, noisy, timesteps, one) for one in (batch, changed))  # type: ignore[attr-defined]
    assert mid[[0, 1, 3]].equal(other[[0, 1, 3]])
    assert not mid[2].equal(other[2])


def test_the_pipeline_makes_the_trainers_pictures(base: Base, union: ControlNetUnionModel, tmp_path: Path) -> None:
    """Two pictures of a batch are those that diffusers' own pipeline makes of the saved weights, one at a time."""
    union.save_pretrained(tmp_path / "union")
    kinds, random = ("canny", "tile"), np.random.default_rng(0)
    maps = [Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(4)]
    wanted = [Request("a disc", map_, seed, kinds[seed // 2]) for seed, map_ in enumerate(maps)]
    pipe: Any = base.pipeline(union)
    pipe.set_progress_bar_config(disable=True)
    ours = generate(pipe, wanted, Sampling(steps=2, cfg=5.0, batch=2))
    plain = StableDiffusionXLControlNetUnionPipeline(
        **{name: getattr(pipe, name) for name in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")},
        **{name: getattr(pipe, name) for name in ("unet", "scheduler")},
        controlnet=ControlNetUnionModel.from_pretrained(tmp_path / "union"),
        add_watermarker=False,
    )
    plain.set_progress_bar_config(disable=True)
    for request, mine in zip(wanted, ours):
        theirs = plain(
            request.prompt,
            control_image=[request.condition],
            control_mode=[{"canny": 3, "tile": 6}[str(request.kind)]],
            num_inference_steps=2,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(request.seed),
        ).images[0]
        assert np.abs(np.asarray(mine, int) - np.asarray(theirs, int)).max() <= 1
    assert np.abs(np.asarray(ours[0], int) - np.asarray(ours[1], int)).max() > 1


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("canny", "blur"), "no number for blur; it has pose, depth"),
        (("canny", "depth", "lineart"), "canny and lineart are the same to SDXL's union ControlNet"),
        (("scribble", "softedge"), "leave one of them out"),
    ],
)
def test_kinds_that_the_model_cannot_tell_are_refused(folder: Path, kinds: tuple[str, ...], message: str) -> None:
    """A kind without a number, and two with the same one."""
    with pytest.raises(ModelError, match=message):
        load_base(Model(base=str(folder)), kinds=kinds)


def test_a_controlnet_to_go_on_from_must_know_the_kinds(
    folder: Path, base: Base, union: ControlNetUnionModel, tmp_path: Path
) -> None:
    """Its weights are taken where it does; one of fewer kinds, or of one kind, is refused, and so is the union for one kind."""
    union.save_pretrained(tmp_path / "union")
    assert base.new_controlnet(str(tmp_path / "union")).task_embedding.equal(union.task_embedding)
    few = load_base(Model(base=str(folder)), kinds=("canny", "softedge")).new_controlnet("unet")
    assert few.config.num_control_type == 6
    few.save_pretrained(tmp_path / "few")
    with pytest.raises(ModelError, match="knows 6 kinds of conditions, and tile is not one of them"):
        base.new_controlnet(str(tmp_path / "few"))
    ControlNetModel.from_unet(base.denoiser).save_pretrained(tmp_path / "one")
    with pytest.raises(ModelError, match="is a ControlNetModel, and a ControlNetUnionModel is needed"):
        base.new_controlnet(str(tmp_path / "one"))
    with pytest.raises(ModelError, match="is a ControlNetUnionModel, and a ControlNetModel is needed"):
        load_base(Model(base=str(folder))).new_controlnet(str(tmp_path / "union"))


def test_other_families_have_one_kind(tmp_path: Path) -> None:
    """A base of SD is refused before anything is loaded, in words that say which could be."""
    with pytest.raises(ModelError, match='is of family "sd": only sdxl can have them'):
        load_base(Model(base=str(save_base(tmp_path / "sd"))), kinds=KINDS)
