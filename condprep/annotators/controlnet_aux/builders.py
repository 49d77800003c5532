"""Detectors of controlnet_aux made from weights files: on the device that was asked for, ready to be called.

Most are what their own `from_pretrained` makes. Three are put together here, from controlnet_aux's networks: LeReS,
which that leaves in training mode, ZoeDepth, where it hides what does not fit, and SAM, which it puts on any GPU and
whose small kind it evaluates without the biases of its attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from condprep.annotators.controlnet_aux.detectors import AuxDetector
from condprep.weights.find import WeightFile, load_into, load_state_dict, read_checkpoint

Files = Mapping[str, WeightFile]  # by their names

# Buffers of BEiT that follow from the size of its windows: older versions of timm saved them, newer ones do not.
WINDOWS = ".relative_position_index"


def build_detector(cls: Any, how: AuxDetector, files: Files, device: str) -> Any:
    """The detector of class `cls`, as `how` describes it. Raises WeightsError and whatever its code meets in a file."""
    return BUILDERS.get(how.cls, pretrained)(cls, how, files, device)


def pretrained(cls: Any, how: AuxDetector, files: Files, device: str) -> Any:
    """By its own code. It is given a folder, so it never asks the Hub, and absolute paths, which win over that folder."""
    if not files:
        return cls()
    for file in files.values():
        read_checkpoint(file)  # refuses what could run code before controlnet_aux opens it
    paths = {argument: str(files[name].path.absolute()) for argument, name in how.files.items()}
    return cls.from_pretrained(str(files[how.weights[0]].path.parent), **paths).to(device)


def leres(cls: Any, how: AuxDetector, files: Files, device: str) -> Any:
    """LeReS, and the network that merges its depths of several resolutions where there is one."""
    from controlnet_aux.leres.leres import depthmap
    from controlnet_aux.leres.leres.multi_depth_model_woauxi import RelDepthModel

    depthmap.print = _silent  # it tells every patch
    if not hasattr(
        depthmap.generatemask, "cache_info"
    ):  # blurs the same 3,000 x 3,000 px anew for every picture: seconds
        depthmap.generatemask = cache(depthmap.generatemask)
    state: Any = read_checkpoint(files["res101.pth"])
    depths = {name.removeprefix("module."): value for name, value in state["depth_model"].items()}
    network = RelDepthModel(backbone="resnext101")
    load_into(network, depths, files["res101.pth"])
    merger = files.get("latest_net_G.pth")
    return cls(network.to(device).eval(), _merger(merger, device) if merger else None)


def _merger(file: WeightFile, device: str) -> Any:
    from controlnet_aux.leres.pix2pix.models.pix2pix4depth_model import Pix2Pix4DepthModel

    state = load_state_dict(file)
    on_cpu = {"gpu_ids": [], "isTrain": False, "input_nc": 2, "output_nc": 1}
    unused = {"checkpoints_dir": "", "name": "", "preprocess": "scale_width"}  # this one leaves cuDNN's settings alone
    merger = Pix2Pix4DepthModel(SimpleNamespace(**on_cpu, **unused))
    load_into(merger.netG, state, file)
    merger.netG.to(device).eval()
    merger.device = torch.device(device)
    return merger


def zoe(cls: Any, how: AuxDetector, files: Files, device: str) -> Any:
    """ZoeDepth, if the checkpoint is one: every tensor there, none left over."""
    from controlnet_aux.zoe import ZoeDepth, get_config

    (file,) = files.values()
    state: Any = read_checkpoint(file)
    network = ZoeDepth.build_from_config(get_config("zoedepth", "infer"))
    made = network.state_dict()
    wanted = {key: value for key, value in state["model"].items() if key in made or not key.endswith(WINDOWS)}
    load_into(network, wanted, file)
    return cls(network.eval()).to(device)


def sam(cls: Any, how: AuxDetector, files: Files, device: str) -> Any:
    """Segment Anything; `how.kind` is the kind of its image encoder."""
    from controlnet_aux.segment_anything.automatic_mask_generator import SamAutomaticMaskGenerator
    from controlnet_aux.segment_anything.build_sam import sam_model_registry

    (file,) = files.values()
    state = load_state_dict(file)
    network = sam_model_registry[how.kind]()
    load_into(network, state, file)
    network.to(device).eval()  # once more, and last: TinyViT keeps what it made of its biases when it was last told so
    return cls(_Masks(SamAutomaticMaskGenerator(network)))


class _Masks:
    """SAM's masks of a picture; where it finds nothing an empty one, since its detector cannot draw no mask at all."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def generate(self, picture: np.ndarray) -> list[dict[str, Any]]:
        """(H, W, 3) uint8 RGB -> one or more masks: `segmentation` (H, W) bool, `area` in pixels."""
        nothing = {"segmentation": np.zeros(picture.shape[:2], bool), "area": 0}
        return self.generator.generate(picture) or [nothing]


def _silent(*words: object) -> None:
    pass


BUILDERS: Mapping[str, Callable[[Any, AuxDetector, Files, str], Any]] = {
    "LeresDetector": leres,
    "ZoeDetector": zoe,
    "SamDetector": sam,
}
