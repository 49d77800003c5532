"""FLUX.1's ControlNet of several kinds of conditions is diffusers' of several modes, and learns what a plain call of that would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxMultiControlNetModel
from PIL import Image
from support.flow_formulas import trained
from support.flow_models import save_flow_base
from support.kinds import KINDS, kinds_batch, learns_as
from torch import Tensor

from trainer.errors import ModelError
from trainer.evaluation.pictures import another
from trainer.models.families import Base, load_base
from trainer.models.loss import draw_for_training
from trainer.models.packed import packed, unpacked
from trainer.recipe.recipe import Model, Train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_flow_base(tmp_path_factory.mktemp("flux") / "base", "flux")


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    """Not to be changed."""
    return load_base(Model(base=str(folder)), kinds=KINDS)


def test_loss_and_gradients_are_those_of_plain_calls(base: Base) -> None:
    """A row's loss is that of diffusers' models called with the row alone, its maps and their numbers; so are the gradients."""
    batch, controlnet = kinds_batch(base), trained(base)
    plain = FluxControlNetModel.from_config(controlnet.config)
    plain.load_state_dict(controlnet.state_dict())
    draws = draw_for_training(batch, Train(seed=1), base.objective)

    def said(noisy: Tensor, row: int) -> Tensor:
        one, given = batch.take([row]), batch.given[row]
        shared = base.condition_kwargs(one, noisy.dtype) | {
            "hidden_states": packed(noisy[row : row + 1]),
            "timestep": draws.timesteps[row : row + 1],
            "return_dict": False,
        }
        maps = [base.encode_pixels(one.conditions[:, 3 * kind : 3 * kind + 3]).mean for kind in given]
        double, _ = FluxMultiControlNetModel([plain])(
            controlnet_cond=[packed(map_) for map_ in maps],
            controlnet_mode=[torch.tensor([kind]) for kind in given],
            conditioning_scale=[1.0] * len(given),
            **shared,
        )
        return unpacked(base.denoiser(controlnet_block_samples=double, **shared)[0], (8, 8))

    learns_as(base, batch, controlnet, plain, draws, said)


def test_it_begins_as_the_base(base: Base) -> None:
    """At first no map changes anything of the output."""
    batch, made = kinds_batch(base), base.new_controlnet("unet")
    noisy, sigmas = torch.randn(4, 4, 8, 8), torch.tensor([0.1, 0.4, 0.7, 1.0])
    with torch.no_grad():
        alone = {"hidden_states": packed(noisy), "timestep": sigmas, **base.condition_kwargs(batch, noisy.dtype)}
        assert base.predict(made, noisy, sigmas, batch).equal(unpacked(base.denoiser(**alone).sample, (8, 8)))


def test_the_pipeline_makes_the_trainers_pictures(base: Base, tmp_path: Path) -> None:
    """With several maps they are those that diffusers' own pipeline makes of the saved weights; each map makes a difference."""
    controlnet = trained(base)
    controlnet.save_pretrained(tmp_path / "saved")
    maps = [Image.fromarray(one) for one in np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)]
    pipe: Any = base.pipeline(controlnet)
    loaded = FluxMultiControlNetModel([FluxControlNetModel.from_pretrained(tmp_path / "saved")])
    modules = {name: module for name, module in pipe.components.items() if name != "controlnet"}
    plain = FluxControlNetPipeline(**modules, controlnet=loaded)

    def made(pipeline: Any, **maps: Any) -> np.ndarray:
        pipeline.set_progress_bar_config(disable=True)
        how = {"height": 64, "width": 64, "num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
        return np.asarray(pipeline("a disc", output_type="np", **how, **maps).images[0])

    lists = {"controlnet_conditioning_scale": [1.0] * 2, "control_guidance_start": [0.0] * 2}
    ours = made(pipe, control_image=dict(zip(("canny", "tile"), maps)))
    theirs = made(plain, control_image=maps, control_mode=[0, 2], control_guidance_end=[1.0] * 2, **lists)
    assert np.allclose(ours, theirs, atol=1e-4)
    assert not np.allclose(ours, made(pipe, control_image={"canny": maps[0]}), atol=1e-4)
    assert type(pipe).__name__ == "FluxControlNetPipeline"
    with another(pipe, str(tmp_path / "saved")):
        assert pipe.controlnet.nets[0] is not controlnet
        assert np.allclose(ours, made(pipe, control_image=dict(zip(("canny", "tile"), maps))), atol=1e-4)
    assert pipe.controlnet.nets[0] is controlnet
    FluxControlNetModel.from_config({**controlnet.config, "num_mode": None}).save_pretrained(tmp_path / "one")
    with pytest.raises(ModelError, match="num_mode is None, not 3"), another(pipe, str(tmp_path / "one")):
        pass


def test_a_controlnet_to_go_on_from_has_the_kinds_of_the_recipe(folder: Path, base: Base, tmp_path: Path) -> None:
    """In its order; one of one kind is refused, and so is one of several for one kind."""
    weights, one = tmp_path / "output" / "raw", load_base(Model(base=str(folder)))
    made = trained(base)
    made.save_pretrained(weights)
    embedded = base.new_controlnet(str(weights)).controlnet_mode_embedder.weight
    assert embedded.equal(made.controlnet_mode_embedder.weight)
    kinds = [{"kind": kind} for kind in KINDS[::-1]]
    (weights.parent / "condition.json").write_text(json.dumps({"conditions": kinds}))
    with pytest.raises(
        ModelError, match=r"was made for tile, softedge, canny, and data\.conditions has canny, softedge"
    ):
        base.new_controlnet(str(weights))
    with pytest.raises(ModelError, match="its num_mode is 3, and it must be None"):
        one.new_controlnet(str(weights))
    one.new_controlnet("unet").save_pretrained(tmp_path / "one")
    with pytest.raises(ModelError, match="its num_mode is None, and it must be 3"):
        base.new_controlnet(str(tmp_path / "one"))
