"""Bases that cannot be trained on: damaged, of other kinds, not there. Each is an error that says what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.trainer_models import rewrite, save_base

from trainer.errors import ModelError
from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Model


def remove(part: str) -> Callable[[Path], object]:
    return lambda folder: shutil.rmtree(folder / part)


def truncate(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:100])


def without_a_weight(file: str) -> Callable[[Path], object]:
    """One of its tensors is gone."""

    def change(folder: Path) -> None:
        state = load_file(folder / file)
        state.pop(sorted(state)[len(state) // 2])
        save_file(state, folder / file, metadata={"format": "pt"})

    return change


def scheduled(**values: Any) -> Callable[[Path], object]:
    """Its scheduler says these values and nothing else."""
    return lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(values))


EDM = {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
SOLVER = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 3.0}


def pickled(folder: Path) -> None:
    part = folder / "unet" / "diffusion_pytorch_model"
    torch.save(load_file(part.with_suffix(".safetensors")), part.with_suffix(".bin"))
    part.with_suffix(".safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("unet"), "pipeline|StableDiffusionPipeline"),
        (remove("vae"), "has no vae"),
        (remove("tokenizer"), "has no tokenizer"),
        (truncate("unet/diffusion_pytorch_model.safetensors"), "unet cannot be loaded"),
        (truncate("model_index.json"), r"model_index\.json cannot be read"),
        (
            rewrite("model_index.json", _class_name="PixArtAlphaPipeline"),
            "holds a PixArtAlphaPipeline; known are sd, sdxl, sd3, flux",
        ),
        (without_a_weight("unet/diffusion_pytorch_model.safetensors"), "unet cannot be loaded: its file has no "),
        (without_a_weight("vae/diffusion_pytorch_model.safetensors"), "vae cannot be loaded: its file has no "),
        (without_a_weight("text_encoder/model.safetensors"), "text_encoder cannot be loaded: its file has no "),
        (rewrite("unet/config.json", in_channels=9), "9 input channels for 4"),
        (rewrite("unet/config.json", cross_attention_dim=48), "unet cannot be loaded"),
        (rewrite("scheduler/scheduler_config.json", prediction_type="sample"), "predicts 'sample'"),
        (scheduled(**EDM), "says no beta_start"),
        (scheduled(**FLOW), "says no beta_start"),
        (pickled, "model.safetensors = false"),
    ],
)
def test_a_base_that_is_not_whole_says_what_is_wrong(
    copy: Callable[[str], Path], damage: Callable[[Path], object], said: str
) -> None:
    """Missing and damaged parts, other architectures and pickled weights are each a ModelError of one line."""
    folder = copy("sd15")
    damage(folder)
    with pytest.raises(ModelError, match=said) as error:
        load_base(Model(base=str(folder)))
    assert "\n" not in str(error.value)


def test_a_flow_whose_shift_is_not_said_is_refused(flow_folders: dict[str, Path], tmp_path: Path) -> None:
    """The shift of a solver that diffusers has made for flows goes by another name: it would be trained, and sampled, without any."""
    folder = Path(shutil.copytree(flow_folders["z-image"], tmp_path / "base"))
    scheduled(**SOLVER)(folder)
    with pytest.raises(ModelError, match="says no shift and no use_dynamic_shifting"):
        load_base(Model(base=str(folder)))


def test_pickled_weights_are_opened_when_asked_for(copy: Callable[[str], Path], bases: dict[str, Base]) -> None:
    """`safetensors = false` admits them."""
    folder = copy("sd15")
    pickled(folder)
    base = load_base(Model(base=str(folder), safetensors=False))
    assert torch.equal(base.denoiser.conv_in.weight, bases["sd15"].denoiser.conv_in.weight)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"base": "/no/such/folder"}, "no such folder"),
        ({"base": "runwayml/stable-diffusion-v1-5"}, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ({"base": "SD15", "family": "sdxl"}, 'is of family "sd", and model.family = "sdxl"'),
        ({"base": "SD15", "vae": "/no/such/vae"}, "no folder '/no/such/vae'"),
    ],
)
def test_a_base_that_is_not_there_says_where_it_was_looked_for(
    model: dict[str, str], said: str, folders: dict[str, Path]
) -> None:
    """A slip in a path, a name that is gone from the Hub and a base of another family are told apart."""
    model["base"] = model["base"].replace("SD15", str(folders["sd15"]))
    with pytest.raises(ModelError, match=said.replace("(", r"\(")):
        load_base(Model(**model))  # type: ignore[arg-type]


@pytest.mark.parametrize("other", ["sdxl", "factor4"])
def test_a_controlnet_of_another_base_is_refused(other: str, bases: dict[str, Base], tmp_path: Path) -> None:
    """The first thing that does not fit is named with both its values."""
    source = bases["sdxl"] if other == "sdxl" else load_base(Model(base=str(save_base(tmp_path / "base", factor=4))))
    source.new_controlnet("unet").save_pretrained(tmp_path / "controlnet")
    said = "cross_attention_dim is 64, and it must be 32" if other == "sdxl" else "reduction is 4, and it must be 8"
    with pytest.raises(ModelError, match=said):
        bases["sd15"].new_controlnet(str(tmp_path / "controlnet"))


def test_a_controlnet_that_lacks_a_weight_is_refused(bases: dict[str, Base], tmp_path: Path) -> None:
    """diffusers would go on with a random one."""
    bases["sd15"].new_controlnet("unet").save_pretrained(tmp_path)
    without_a_weight("diffusion_pytorch_model.safetensors")(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded: its file has no "):
        bases["sd15"].new_controlnet(str(tmp_path))
