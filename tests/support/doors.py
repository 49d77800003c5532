"""Every annotator that has a name, with random or tiny weights that make a difference, and each loaded as if nothing had been before it."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from support import aux_models, dwpose_models, network_states, tiny_models
from support.openpose_dm14 import DM14
from support.openpose_parts import Tints

from condprep import load_annotator
from condprep.annotators.depth import models
from condprep.annotators.openpose.load import CMU
from condprep.annotators.registry import parameters, parse
from condprep.weights.find import Weights

# What is built together, since it takes the same weights or about the same time.
FILTERS = (
    *("canny", "canny:random", "scribble", "scribble:xdog", "tile", "blur", "gray", "gray:luminance", "gray:intensity"),
    *("color", "inpaint"),
)
HED = tuple(f"hed{style}" for style in ("", ":safe", ":scribble", ":mix"))
TENSOR = tuple(f"hed:tensor{style}" for style in ("", "-safe", "-scribble", "-mix"))
LINES = (
    *("lineart", "lineart:coarse", "mlsd", "pidinet", "pidinet:safe", "pidinet:scribble", "teed"),
    *("aux:anyline", "aux:lineart_standard", "aux:shuffle"),
)
LARGE = ("depth", "depth:midas", "normal", "normal:midas", "lineart_anime", "normalbae", "aux:leres")
PEOPLE = ("openpose", *(f"openpose:{variant}" for variant in CMU))
DWPOSE = tuple(f"openpose:dwpose{parts}" for parts in ("", "-hand", "-face", "-full"))
SHORTER = {"depth:midas": "depth", "normal:midas": "normal", "openpose:cmu": "openpose"}  # names of the same annotator
HEAVY = ("aux:leres++", "aux:zoe")
SEGMENTS = ("aux:sam", "aux:mobile_sam")
MODELS = {  # of transformers and diffusers: which tiny one, and at which door
    **{"segmentation": ("segformer", "mask2former", "oneformer"), "depth": ("dpt", "zoedepth")},
    "normal": ("tips", "marigold"),
}
# Maps that are painted of what was decided: for each annotator the share of pixels in which rounding may decide otherwise.
PAINTED = dict.fromkeys(("segmentation", "mask", "openpose", "hed", "pidinet", "teed", "mlsd", "aux"), 1e-3)
LABELS = {"segformer": [tiny_models.ADE], "mask2former": [tiny_models.COCO], "oneformer": [tiny_models.ADE]}


def tiny(folder: Path, kinds: Mapping[str, tuple[str, ...]] = MODELS) -> list[str]:
    """Tiny models in folders of their own; their names as users say them."""
    names = []
    for door, some in kinds.items():
        for kind in some:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            getattr(tiny_models, kind)(folder / kind, *LABELS.get(kind, ()))
            names.append(f"{door}:{folder / kind}")
    return names


def fill(folder: Path, *names: str) -> Weights:
    """A folder with what annotators of those names read."""
    for name in names:
        base, _, variant = name.partition(":")
        _write(folder, base, variant)
    return Weights(folder, offline=True, say=lambda _: None)


def _write(folder: Path, base: str, variant: str) -> None:
    own = base if not variant else f"{base}_{variant}"
    if base == "hed" and not variant.startswith("tensor"):
        _once(folder / "ControlNetHED.pth", network_states.hed_state)
    elif base in ("depth", "normal") and variant in ("", "midas"):
        _once(folder / models.MIDAS, network_states.depth_state)
    elif base == "openpose" and "dwpose" in variant:
        dwpose_models.write_detector(folder / "yolox_l.onnx")
        dwpose_models.write_landmarks(folder / "dw-ll_ucoco_384.onnx")
    elif base == "openpose":
        for file in CMU.get(variant or "cmu", ()):
            (folder / file).write_bytes(file.encode())  # `people` stands in for its network
    elif base == "aux":
        aux_models.save_checkpoints(folder, variant)
    elif own in aux_models.OWN:
        aux_models.save_checkpoints(folder, own)


def _once(path: Path, state: Callable[[], Any]) -> None:
    if not path.exists():
        torch.save(state(), path)


def stand_ins(patch: pytest.MonkeyPatch) -> None:
    """Small networks where the real ones are large: for bodies a real one, hands and faces that are where the picture has some
    colours; image encoders of a few layers for Segment Anything, which looks at half the size, asks at four points and believes
    every answer; of transformers at a grid of 12 and not of 32: more than it asks about at once."""
    from controlnet_aux.segment_anything import automatic_mask_generator, build_sam

    from condprep.annotators.segmentation.parts import Parts

    def of_people(file: Any, make: Any = None) -> Any:
        return Tints(make.args[0]) if isinstance(make, functools.partial) else DM14()

    patch.setattr("condprep.annotators.openpose.network.load_network", of_people)
    small = {"encoder_embed_dim": 32, "encoder_depth": 2, "encoder_num_heads": 2, "encoder_global_attn_indexes": [1]}
    patch.setitem(
        build_sam.sam_model_registry, "vit_h", functools.partial(_half, build_sam, build_sam._build_sam, **small)
    )
    patch.setitem(build_sam.sam_model_registry, "vit_t", functools.partial(_half, build_sam, build_sam.build_sam_vit_t))
    pleased = {"pred_iou_thresh": -1e3, "stability_score_thresh": -1e3, "box_nms_thresh": 1.0, "points_per_side": None}
    points = [np.array([[x, y] for x in (0.25, 0.75) for y in (0.25, 0.75)])]
    generator = automatic_mask_generator.SamAutomaticMaskGenerator
    patch.setattr(
        automatic_mask_generator,
        "SamAutomaticMaskGenerator",
        functools.partial(generator, point_grids=points, **pleased),
    )
    every = Parts.__init__

    def with_fewer_points(self: Parts, pipeline: Any, *rest: Any, **named: Any) -> None:
        pipeline._preprocess_params["points_per_crop"] = 12
        every(self, pipeline, *rest, **named)

    patch.setattr(Parts, "__init__", with_fewer_points)


def _half(build_sam: Any, build: Callable[..., Any], **how: Any) -> Any:
    """Segment Anything that looks at 512 x 512 px and not at 1024 x 1024; the mobile one's encoder with fewer layers."""

    class Tiny(build_sam.TinyViT):  # type: ignore[misc, name-defined]
        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            for part in (self.patch_embed, *self.layers):
                x = part(x)
            return self.neck(x.mT.unflatten(2, (32, 32)))  # type: ignore[no-any-return]

    encoder, prompts, size = build_sam.ImageEncoderViT, build_sam.PromptEncoder, {"img_size": 512}
    fewer = {"embed_dims": [16, 32, 40, 320], "depths": [1] * 4}  # 320: where it looks at as much as before
    asked = {"image_embedding_size": (32, 32), "input_image_size": (512, 512)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_sam, "ImageEncoderViT", lambda **given: encoder(**given | size))
        patch.setattr(build_sam, "TinyViT", lambda **given: Tiny(**given | fewer | size))
        patch.setattr(build_sam, "PromptEncoder", lambda **given: prompts(**given | asked))
        return build(**how)


def at_hand(name: str) -> tuple[str, ...]:
    """That annotator, where its pinned weights are on this machine."""
    spec, variant = parse(name)
    return (name,) if all(map(Weights(say=lambda _: None).locate, spec.weights[variant])) else ()


def base(name: str) -> str:
    """ "hed:safe" -> "hed"."""
    return name.partition(":")[0]


def params(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Of networks that they compute in fp32, where batches differ by rounding alone; those of openpose do so on a CPU."""
    specs = {spec.name: spec for spec in (parse(name)[0] for name in names)}
    exact = {
        name: {"precision": "fp32"}
        for name, spec in specs.items()
        if name != "openpose" and "precision" in parameters(spec)
    }
    return exact | {"depth": {**exact["depth"], "keep_raw": True}} if "depth" in specs else exact


def forget_all() -> None:
    """Whatever functions and networks of this process remember of pictures before, of anybody's."""
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] in FORGETFUL and name not in _looked_at:
            _looked_at.add(name)
            _remembering.extend(one for value in [*vars(module).values()] for one in _caches(value, name))
    for one in _remembering:
        one.cache_clear()
    models._midas.clear()


def _caches(thing: Any, module: str, depth: int = 4) -> Iterator[Any]:
    """Those of a function or class: itself, a method, or what a decorator has put around one. The collector of garbage does not
    name them all: conftest.py has it pass over what was imported while tests were collected."""
    inside: Iterable[Any] = ()
    if type(thing) is functools._lru_cache_wrapper:
        yield thing
    elif isinstance(thing, staticmethod | classmethod):
        inside = [thing.__func__]
    elif isinstance(thing, FunctionType):
        inside = [content for cell in thing.__closure__ or () for content in gc.get_referents(cell)]
    elif isinstance(thing, type) and thing.__module__ == module:
        inside = [*vars(thing).values()]
    if depth:
        for one in inside:
            yield from _caches(one, module, depth - 1)


_looked_at = set[str]()
_remembering: list[Any] = []
FORGETFUL = {"condprep", "transformers", "diffusers", "controlnet_aux", "torchvision", "timm"}


Picture = tuple[np.ndarray, str]  # (H, W, 3) uint8 RGB, and its key
Made = tuple[np.ndarray, Mapping[str, Any]]  # a map (H, W, C), and what was found beside it


def alone(name: str, pictures: Sequence[Picture], weights: Weights) -> list[Made]:
    """What an annotator that was not counted makes of each picture by itself."""
    forget_all()
    annotator = load_annotator(name, device="cpu", params=params([name]).get(base(name)), weights=weights)
    made = []
    for rgb, key in pictures:
        forget_all()
        found = annotator(torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None], [key])
        columns = {column: values[0] for column, values in found.columns.items()}
        made.append((found.maps[0].permute(1, 2, 0).cpu().numpy(), columns))
    return made
