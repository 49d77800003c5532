"""A base in one file of safetensors, with UNet, VAE and text encoders, as AUTOMATIC1111's and ComfyUI's programs have it.

Weights are renamed by diffusers. What the file does not hold, configuration and tokenizers, comes from a folder or the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import ModelError
from trainer.models.parts import check_channels, explained, frozen, refuse_missing

UNET, VAE = "model.diffusion_model.", "first_stage_model."  # beginnings of names in such a file
TEXT = {"conditioner.embedders.1.": "sdxl", "cond_stage_model.": "sd"}  # which tell its family
PIPELINES = {"sdxl": "StableDiffusionXLPipeline", "sd": "StableDiffusionPipeline"}
# tensors without numbers by which such a file says what it predicts, and that its schedule ends in noise alone; programs know them
VELOCITY, ALL_NOISE = "v_pred", "ztsnr"
PREDICTS = "modelspec.prediction_type"  # in the header, of Stability AI's model specification


@dataclass(frozen=True)
class SingleFileParts:
    """What diffusers has made of a file."""

    path: Path
    family: str
    pipeline: Any
    schedule: Mapping[str, Any] = field(default_factory=dict)  # what the file says of its scheduler

    def network(self, kind: Any, part: str, *, stored: bool = False) -> Any:
        return frozen(self._part(part) if stored else self._part(part).float())

    def config(self, kind: Any, part: str) -> Any:
        found = self._part(part)
        return kind.from_config(found.config, **self.schedule) if part == "scheduler" else found

    def setting(self, name: str, default: Any) -> Any:
        return self.pipeline.config.get(name, default)

    def _part(self, part: str) -> Any:
        found = getattr(self.pipeline, part, None)
        if found is None:
            raise ModelError(f"model.base {str(self.path)!r} and its configuration give no {part}")
        if hasattr(found, "named_parameters"):
            with explained(f"the {part} of model.base {str(self.path)!r} cannot be loaded"):
                refuse_missing([name for name, weight in found.named_parameters() if weight.is_meta])
        return found


def open_single_file(path: Path, config: str) -> SingleFileParts:
    """The parts of a file. config: a folder or Hub name; "" is what diffusers finds by the weights, from the Hub or its cache.

    Raises ModelError for what is no file of safetensors, no whole model, or of another family.
    """
    import diffusers

    names, header = _contents(path)
    family = family_of_names(path, names)
    with explained(
        f"model.base {str(path)!r} cannot be loaded{'' if config else ', or its configuration (model.config)'}"
    ):
        pipeline = getattr(diffusers, PIPELINES[family]).from_single_file(str(path), config=config or None)
    check_channels(path, pipeline.unet.config)
    return SingleFileParts(path, family, pipeline, said_schedule(names, header))


def said_schedule(names: set[str], header: Mapping[str, str]) -> dict[str, Any]:
    """Settings of its scheduler that a file says, which diffusers does not look for. A schedule that ends in noise is sampled from there."""
    velocity = VELOCITY in names or header.get(PREDICTS, "").startswith("v")
    whole = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if ALL_NOISE in names else {}
    return whole | ({"prediction_type": "v_prediction"} if velocity else {})


def _contents(path: Path) -> tuple[set[str], dict[str, str]]:
    """The names of the tensors, without reading one, and the header."""
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        raise ModelError(
            f"model.base {str(path)!r}: of single files safetensors alone are opened, since others may run code; save it as one"
        )
    with explained(f"model.base {str(path)!r} is no file of safetensors"), safe_open(str(path), "pt") as file:
        return set(file.keys()), dict(file.metadata() or {})


def family_of_names(path: Path, names: set[str]) -> str:
    """ "sd" or "sdxl", by the names of the tensors. Raises ModelError that says what is missing."""
    wanted = {"UNet": (UNET,), "VAE": (VAE,), "text encoder of SD 1.5, SD 2.x or SDXL": tuple(TEXT)}
    missing = [part for part, starts in wanted.items() if not any(name.startswith(starts) for name in names)]
    if missing:
        raise ModelError(
            f"model.base {str(path)!r} is no whole base model: it has no {', no '.join(missing)} (looked for"
            f" {', '.join(start for part in missing for start in wanted[part])})"
        )
    return next(family for start, family in TEXT.items() if any(name.startswith(start) for name in names))
