"""Results of the trainer that nobody had to train: the folders and records of a run, with a ControlNet of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from support.trainer_models import save_base

CANNY = {
    "annotator": "canny",
    "variant": "",
    "column": "canny",
    "params": {"low": 50},
    "parameters": {"low": 50, "high": 200},
    "weights": {},
    "licence": "Apache-2.0",
    "commercial": True,
}


def make_result(folder: Path, *, annotators: list[dict[str, Any]] | None = None, resolution: int = 64) -> Path:
    """`folder` as a finished run of `base` beside it, a tiny one of SD 1.5. annotators: of condition.json; canny where not said."""
    base = folder.parent / "base"
    if not base.exists():
        save_base(base)
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 16, 16))
    for parameter in controlnet.parameters():  # that of an untrained one is zero at its end, and changes nothing
        parameter.data += 0.05 * torch.randn_like(parameter)
    controlnet.save_pretrained(folder)
    geometry = {"resolution": 64, "fit": "crop", "max_upscale": 2.0}
    made = [CANNY] if annotators is None else annotators
    condition = {"kind": "canny", "column": "canny", "annotators": made, "geometry": geometry}
    training = {"model": {"base": str(base)}, "family": "sd", "updates": 20}
    for name, record in (("condition", condition), ("training", training)):
        (folder / f"{name}.json").write_text(json.dumps(record))
    (folder / "recipe.toml").write_text(
        f'[model]\nbase = "{base}"\n[data]\npath = "ds"\nresolution = {resolution}\n[eval]\nsampler_steps = 2\ncfg = 3.0\n'
    )
    return folder
