"""Using what was trained: a diffusers pipeline with its base, which says when a condition is of another kind."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from condprep.runtime.files import read_json
from trainer.errors import ModelError, RecipeError
from trainer.inference.checkpoint_folder import MANIFEST, result_folder
from trainer.models.kinds import CONDITIONS, Given, all_kinds, before_calls, kinds_of
from trainer.recipe.layout import CONDITION, CONFIG, EMA, RAW, RECIPE, TRAINING
from trainer.types import Say, torch_dtype

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL import Image

    from trainer.recipe.outcome import Eval

FAR = 2.0  # times as many pixels as in training, or as few
WeightsName = Literal["best", "raw", "ema", "faithful"]
PrecisionName = Literal["auto", "bf16", "fp16", "fp32"]


def load_pipeline(
    output: str | Path,
    *,
    base: str | None = None,
    checkpoint: int | None = None,
    weights: WeightsName = "best",
    precision: PrecisionName = "auto",
    sampler: str = "auto",
    device: str = "auto",
    say: Say = lambda _: None,
) -> DiffusionPipeline:
    """The ControlNet in `output` with the base that it was trained on, ready to be called as any pipeline of diffusers.

    base: another one of its family, by folder or Hub name. checkpoint: that of this update; where a run is not finished, its newest
    whole one is taken, and `say` told. weights: "best" is the averaged ones where there are any,
    else "raw", the last ones; "faithful" those that followed best, with eval.fidelity. precision: auto is bf16 on a GPU and fp32 on a CPU. sampler: as
    `eval.sampler` of a recipe; "auto" is the family's own. The pipeline warns of a condition that does not look like those of the training. Raises ModelError where `output` holds no result or does not fit.
    """
    folder = result_folder(Path(output), checkpoint, say)
    kinds = kinds_of(read_records(folder)[1])
    pipeline = open_pipeline(folder, base=base, weights=weights, precision=precision, sampler=sampler, device=device)
    return _checking(pipeline, kinds)


def open_pipeline(
    folder: Path,
    *,
    base: str | None,
    weights: WeightsName,
    precision: PrecisionName,
    device: str,
    sampler: str = "auto",
) -> DiffusionPipeline:
    """The same of the very folder of a result or of a checkpoint. It does not look at conditions."""
    import torch

    from trainer.models.families import load_base
    from trainer.models.parts import read_model
    from trainer.recipe.recipe import Model, Text

    training, condition = read_records(folder)
    place = "cuda" if torch.cuda.is_available() else "cpu"
    place = place if device == "auto" else device
    chosen = {"auto": "fp32" if place == "cpu" else "bf16"}.get(precision, precision)
    source = weights_folder(folder, weights)
    model = Model.model_validate(training["model"] | ({"base": base, "revision": ""} if base else {}))
    text = Text.model_validate(training.get("text", {}))
    loaded = load_base(model, text, kinds_of(condition))
    if loaded.family != training["family"]:
        raise ModelError(
            f'{folder} was trained on a base of family "{training["family"]}", and {model.base!r} is of family "{loaded.family}"'
        )
    controlnet = read_model(loaded.controlnet_kind, str(source), safetensors=True)
    return loaded.pipeline(controlnet, sampler).to(place, torch_dtype(chosen))


def sample(
    output: str | Path,
    condition: str | Path | Image.Image,
    prompt: str,
    *,
    negative_prompt: str = "",
    steps: int | None = None,
    cfg: float | None = None,
    seed: int = 0,
    kind: str | None = None,
    **how: Any,
) -> Image.Image:
    """One picture that follows a condition map, by the family's own sampler. how: what `load_pipeline` takes, another sampler with it.

    condition: a map, or its file. The picture has its size, cut down to multiples of 64 pixels from the middle; `say` is told where
    that is far from the training's. steps, cfg: None is what the run's own pictures are drawn with, `eval.sampler_steps` and `eval.cfg` of its recipe. kind: which of
    several kinds of conditions it is. Raises ModelError as `load_pipeline`, for a map that cannot be read, and for a kind that the
    ControlNet does not know.
    """
    from trainer.inference.generate import Request, Sampling, generate

    folder = result_folder(Path(output), how.get("checkpoint"))
    training, record = read_records(folder)
    request = Request(prompt, fit_condition(condition), seed, chosen_kind(kinds_of(record), kind))
    if far := far_from_training(request.condition.size, training):
        how.get("say", lambda _: None)(far)
    usual = _drawn_with(Path(output))
    chosen = usual.sampler_steps if steps is None else steps, usual.cfg if cfg is None else cfg
    sampling = Sampling(*chosen, negative_prompt=negative_prompt)
    (picture,) = generate(load_pipeline(output, **how), [request], sampling)
    return picture


def _drawn_with(output: Path) -> Eval:
    """How the pictures of a run are drawn, as its recipe says; the defaults where it has none that can be read."""
    from trainer.recipe.outcome import Eval
    from trainer.recipe.toml import load_recipe

    try:
        return load_recipe(output / RECIPE).eval if (output / RECIPE).is_file() else Eval()
    except RecipeError:
        return Eval()


def far_from_training(size: tuple[int, int], training: Mapping[str, Any]) -> str | None:
    """What is to be said of a picture's size, (width, height), that has other numbers of pixels altogether than those that were trained on."""
    side = training.get("resolution")  # of an older version: it is not known
    if not isinstance(side, int) or 1 / FAR < size[0] * size[1] / side**2 < FAR:
        return None
    return (
        f"the condition has {size[0]} x {size[1]} px, and this ControlNet was trained at {side} x {side}, or as many pixels in another"
        " shape: it follows maps of that size best"
    )


def chosen_kind(kinds: Sequence[str | None], kind: str | None) -> str | None:
    """Which of several kinds is meant, None of one. Raises ModelError where that is not said, or is none of them."""
    known = all_kinds(kinds) or "maps of a kind that is not known"
    if kind not in (*kinds, None):
        raise ModelError(f"--kind {kind}: this ControlNet was trained on {known}")
    if len(kinds) > 1 and not kind:
        raise ModelError(f"this ControlNet was trained on {known}: say with --kind which of them the condition is")
    return kind if len(kinds) > 1 else None


def fit_condition(condition: str | Path | Image.Image) -> Image.Image:
    """A map as RGB, its middle cut out so that both sides are multiples of 64 pixels. Raises ModelError."""
    from PIL import Image

    from condprep.errors import Rejected
    from condprep.images.decode import decode
    from condprep.images.geometry import MULTIPLE
    from condprep.sources.base import read_regular

    if isinstance(condition, Image.Image):
        image = as_read(condition)
    else:
        try:
            image = Image.fromarray(decode(read_regular(Path(condition))).rgb)
        except Rejected as rejected:
            raise ModelError(f"condition {condition}: {rejected.reason}") from None
    width, height = (side // MULTIPLE * MULTIPLE for side in image.size)
    if not width or not height:
        raise ModelError(f"condition {condition}: {image.width} x {image.height} px is smaller than {MULTIPLE} pixels")
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def as_read(condition: Image.Image) -> Image.Image:
    """A map as RGB, the pixels that a dataset has of its file: 16 bits by their high byte, what is transparent on white. Raises ModelError."""
    from PIL import Image

    from condprep.errors import Rejected
    from condprep.images.decode import rgb_pixels

    try:
        return Image.fromarray(rgb_pixels(condition))
    except Rejected as rejected:
        raise ModelError(f"the condition, a picture of mode {condition.mode}: {rejected.reason}") from None


def check_picture_name(path: Path) -> None:
    """Raises ModelError for the name of a file that pictures are not written as: before one is generated."""
    from condprep.dataset.contact_sheet import FORMATS

    if path.suffix.lower() not in FORMATS:
        raise ModelError(f"{path}: a picture is a {', '.join(FORMATS)} file")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Into a PNG, JPEG or WebP file. Raises ModelError for another extension."""
    from condprep.dataset.contact_sheet import FORMATS
    from condprep.images.files import commit_picture

    check_picture_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    commit_picture(path, picture, FORMATS[path.suffix.lower()])


def weights_folder(output: Path, weights: WeightsName) -> Path:
    """Where those weights of a run, or of a checkpoint, lie, as a ControlNet of diffusers. Raises ModelError where there are none."""
    best = output
    if (output / MANIFEST).exists():  # a checkpoint
        best = output / (EMA if (output / EMA).exists() else RAW)
    folder = best if weights == "best" else output / weights
    if not (folder / CONFIG).exists():
        raise ModelError(f'{output} has no {weights} weights: say weights = "best"')
    return folder


def read_records(output: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """training.json and condition.json. Raises ModelError where one of them is not there, or is none."""
    try:
        training, condition = (read_json(output / name) for name in (TRAINING, CONDITION))
        _ = training["model"]["base"], training["family"], condition["kind"], kinds_of(condition)
        return training, condition
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{output} holds no result of the trainer: {TRAINING} or {CONDITION} is missing or damaged ({error})"
        ) from error


def _checking(pipeline: Any, kinds: Sequence[str | None]) -> Any:
    """The same pipeline, which reads pictures as a dataset does, and warns; of several kinds, where a call names them."""

    def look(given: Given) -> None:
        name = next((name for name in CONDITIONS if name in given), CONDITIONS[0])
        images = _read(given.get(name))
        if name in given:
            given[name] = images
        each = images if isinstance(images, Mapping) else {kinds[0]: images} if len(kinds) == 1 else {}
        for kind, found in each.items():
            for image in found if isinstance(found, list) else [found]:
                if problem := kind in kinds and kind and unlike(image, kind):
                    warnings.warn(problem, stacklevel=3)

    return before_calls(pipeline, look)


def _read(images: Any) -> Any:
    """What a pipeline is given, its PIL pictures as they are read: diffusers itself clips 16 bits to white, and shows what transparency hides."""
    from PIL import Image

    if isinstance(images, Mapping):
        return {kind: _read(found) for kind, found in images.items()}
    if isinstance(images, list | tuple):
        return [_read(image) for image in images]
    return as_read(images) if isinstance(images, Image.Image) and images.mode != "RGB" else images


def unlike(image: Any, kind: str) -> str | None:
    """How a PIL condition differs from the kind that was trained; None where it does not, or it cannot be told."""
    import numpy as np
    from PIL import Image

    from condprep.types import PICTURED
    from condprep.verification.features import ACCEPTED, classify, inverted_kind, measure_features

    if not isinstance(image, Image.Image):
        return None
    rgb = np.asarray(image.convert("RGB"))
    measured = measure_features(rgb)
    if kind not in PICTURED and inverted_kind(rgb, measured) in ACCEPTED[kind]:
        return f"the condition looks like {kind}, but inverted; this ControlNet was trained on the other polarity"
    found = classify(measured)
    if found is None or found in ACCEPTED[kind]:
        return None
    return f"the condition looks like {found}, but this ControlNet was trained on {kind}"
