"""The families of base models: which one a base is, by its own files, and loading it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from condprep.runtime.files import read_json
from trainer.errors import ModelError
from trainer.models.base import Base
from trainer.models.parts import INDEX, FolderParts, Parts, check_channels, folder_of
from trainer.recipe.recipe import Model, Text


@dataclass(frozen=True)
class Family:
    """Where a family is, and what diffusers calls what belongs to it."""

    base: str  # module and class
    pipelines: str  # what the class of its pipelines begins with
    controlnet: str
    condition: str = "control_image"  # of a pipeline's call
    several: Family | None = None  # the same with one ControlNet for several kinds of conditions

    @property
    def kind(self) -> Any:
        """The class."""
        module, _, name = self.base.partition(":")
        return getattr(import_module(module), name)


_PLAIN = ("StableDiffusion", "ControlNetModel", "image")
_SD3 = ("StableDiffusion3", "SD3ControlNetModel")
_FLUX = ("Flux", "FluxControlNetModel")
_QWEN_IMAGE = ("QwenImage", "QwenImageControlNetModel")
_Z_IMAGE = ("ZImage", "ZImageControlNetModel")
FAMILIES = {
    "sd": Family(
        *("trainer.models.sd:StableDiffusion", *_PLAIN),
        several=Family("trainer.models.channels:StableDiffusionOfKinds", *_PLAIN),
    ),
    "sdxl": Family(
        *("trainer.models.sdxl:StableDiffusionXL", *_PLAIN),
        several=Family("trainer.models.union:StableDiffusionXLUnion", "StableDiffusion", "ControlNetUnionModel"),
    ),
    "sd3": Family(
        *("trainer.models.sd3:StableDiffusion3", *_SD3),
        several=Family("trainer.models.latents:StableDiffusion3OfKinds", *_SD3),
    ),
    "flux": Family(
        *("trainer.models.flux:Flux", *_FLUX),
        several=Family("trainer.models.modes:FluxOfKinds", *_FLUX),
    ),
    "qwen-image": Family(
        *("trainer.models.qwen_image:QwenImage", *_QWEN_IMAGE),
        several=Family("trainer.models.latents:QwenImageOfKinds", *_QWEN_IMAGE),
    ),
    "z-image": Family(
        *("trainer.models.z_image:ZImage", *_Z_IMAGE),
        several=Family("trainer.models.latents:ZImageOfKinds", *_Z_IMAGE),
    ),
}
UNETS = ("sd", "sdxl")  # which their UNet tells apart
PLAIN = Text()

__all__ = ["FAMILIES", "Base", "family_of", "load_base"]


def load_base(model: Model, text: Text = PLAIN, kinds: tuple[str | None, ...] = (None,)) -> Base:
    """The base model of a recipe, from its folder or the Hub, for a ControlNet of these kinds of conditions.

    Raises ModelError that says what is missing or wrong.
    """
    family, parts = _opened(model)
    if model.family not in ("auto", family):
        raise ModelError(f'model.base {model.base!r} is of family "{family}", and model.family = "{model.family}"')
    one = FAMILIES[family]
    chosen = one.several or one if len(kinds) > 1 else one
    loaded: Base = chosen.kind.load(parts, model, text)
    loaded.set_kinds(kinds)
    return loaded


def _opened(model: Model) -> tuple[str, Parts]:
    """Family and parts of a folder, a name on the Hub, or a single file."""
    if Path(model.base).is_file():
        from trainer.models.single_file import open_single_file

        file = open_single_file(Path(model.base), model.config)
        return file.family, file
    folder = folder_of(model.base, model.revision, model.safetensors)
    return family_of(folder), FolderParts(folder, model.safetensors)


def family_of(folder: Path) -> str:
    """The key of FAMILIES. Raises ModelError for a pipeline of another kind."""
    pipeline = str(_config(folder / INDEX).get("_class_name", ""))
    known = sorted((one.pipelines, name) for name, one in FAMILIES.items() if pipeline.startswith(one.pipelines))
    family = known[-1][1] if known else ""  # of several the longest beginning
    if family not in UNETS and known:
        return family
    unet = _config(folder / "unet" / "config.json") if (folder / "unet").is_dir() else {}
    if not unet or not known:
        raise ModelError(f"{folder} holds a {pipeline or 'pipeline without a class'}; known are {', '.join(FAMILIES)}")
    check_channels(folder, unet)
    return "sdxl" if unet.get("addition_embed_type") == "text_time" else "sd"


def _config(path: Path) -> dict[str, Any]:
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} is no configuration")
    return config
