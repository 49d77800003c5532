"""Every network of controlnet_aux with random weights, and controlnet_aux alone as its users call it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from condprep.annotators.controlnet_aux import adapter
from condprep.annotators.controlnet_aux.detectors import DETECTORS, AuxDetector
from condprep.annotators.registry import load_annotator
from condprep.weights.find import Weights

KEYS = [hashlib.sha256(name).hexdigest() for name in (b"one", b"two", b"three")]
PIDINET = {"filename": "table5_pidinet.pth"}
# Those that condprep has itself by now: what each is in controlnet_aux. Their former names, "aux:...", load ours.
OWN = {
    # LineartDetector wants the weights of both its styles and uses one of them: it is given the same file twice.
    "lineart": AuxDetector(
        "LineartDetector",
        "line drawing, light on dark",
        files=dict.fromkeys(("filename", "coarse_filename"), "sk_model.pth"),
    ),
    "lineart_coarse": AuxDetector(
        "LineartDetector",
        "the same in fewer, bolder lines",
        files=dict.fromkeys(("filename", "coarse_filename"), "sk_model2.pth"),
        options={"coarse": True},
    ),
    "lineart_anime": AuxDetector("LineartAnimeDetector", "line drawing of anime", files={"filename": "netG.pth"}),
    "teed": AuxDetector("TEEDdetector", "TEED edges in three levels", files={"filename": "5_model.pth"}),
    "mlsd": AuxDetector("MLSDdetector", "straight line segments", files={"filename": "mlsd_large_512_fp32.pth"}),
    "pidinet": AuxDetector("PidiNetDetector", "soft edges", files=PIDINET),
    "pidinet_safe": AuxDetector("PidiNetDetector", "the same in three levels", files=PIDINET, options={"safe": True}),
    "pidinet_scribble": AuxDetector(
        "PidiNetDetector", "the strongest as thick strokes", files=PIDINET, options={"scribble": True}
    ),
    "normalbae": AuxDetector("NormalBaeDetector", "surface normals", files={"filename": "scannet.pt"}, channels=3),
}
HOW = {**DETECTORS, **OWN}
GRID = {"lineart_anime": 256}  # sides in multiples of this are not resized inside it; of the others 64
HEAVY = ["leres++", "zoe", "sam", "mobile_sam"]  # half a minute a picture: each has a test of its own
NETWORKS = [name for name, how in HOW.items() if how.files and name not in HEAVY]
WEIGHTLESS = ["lineart_standard", "shuffle"]
SLOW = {"lineart_anime", "normalbae", "leres"}  # 54, 72 and 115 million parameters


@cache
def detectors() -> Any:
    """controlnet_aux, and from here on no warnings of it."""
    with adapter._quiet():
        import controlnet_aux
    return controlnet_aux


def _lineart() -> Any:
    from controlnet_aux.lineart import Generator

    return Generator(3, 1, 3).state_dict()


def _anime() -> Any:
    from controlnet_aux.lineart_anime import UnetGenerator

    norm = partial(torch.nn.InstanceNorm2d, affine=False, track_running_stats=False)
    return UnetGenerator(3, 1, 8, 64, norm_layer=norm).state_dict()


def _mlsd() -> Any:
    from controlnet_aux.mlsd.models.mbv2_mlsd_large import MobileV2_MLSD_Large

    return MobileV2_MLSD_Large().state_dict()


def _pidinet() -> Any:
    from controlnet_aux.pidi.model import pidinet

    return {"state_dict": {name: 2 * value for name, value in pidinet().state_dict().items()}}  # 2: not all 0.5


def _normalbae() -> Any:
    from controlnet_aux.normalbae.nets.NNET import NNET

    how = SimpleNamespace(
        mode="client", architecture="BN", pretrained="scannet", sampling_ratio=0.4, importance_ratio=0.7
    )
    return {"model": NNET(how).state_dict()}


def _ted() -> Any:
    from controlnet_aux.teed.ted import TED

    return TED().state_dict()


def _leres() -> Any:
    from controlnet_aux.leres.leres.multi_depth_model_woauxi import RelDepthModel

    # It was trained on several GPUs, which puts "module." before each name.
    return {
        "depth_model": {f"module.{name}": value for name, value in RelDepthModel("resnext101").state_dict().items()}
    }


def _merger() -> Any:
    from controlnet_aux.leres.pix2pix.models.networks import define_G

    return define_G(2, 1, 64, "unet_1024", "none").state_dict()


def _zoe() -> Any:
    from controlnet_aux import zoe

    return {"model": zoe.ZoeDepth.build_from_config(zoe.get_config("zoedepth", "infer")).state_dict()}


def _mobile_sam() -> Any:
    from controlnet_aux.segment_anything.build_sam import sam_model_registry

    state = sam_model_registry["vit_t"]().state_dict()
    return {
        name: torch.randn_like(value) if name.endswith("attention_biases") else value for name, value in state.items()
    }


def _sam() -> Any:
    from controlnet_aux.segment_anything.build_sam import sam_model_registry

    return sam_model_registry["vit_h"]().state_dict()


MAKE: dict[str, Callable[[], Any]] = {
    "sk_model.pth": _lineart,
    "sk_model2.pth": _lineart,
    "netG.pth": _anime,
    "mlsd_large_512_fp32.pth": _mlsd,
    "table5_pidinet.pth": _pidinet,
    "scannet.pt": _normalbae,
    "MTEED.pth": _ted,
    "5_model.pth": _ted,
    "res101.pth": _leres,
    "latest_net_G.pth": _merger,
    "ZoeD_M12_N.pt": _zoe,
    "mobile_sam.pt": _mobile_sam,
    "sam_vit_h_4b8939.pth": _sam,
}
BESIDE = {"leres": {"latest_net_G.pth"}}  # what the reference opens and does not use
Checkpoints = Callable[[str], Path]  # a variant -> a folder with its weights


def save_checkpoints(folder: Path, variant: str) -> Path:
    """The folder, with the weights of a variant: of its real network, with random values."""
    detectors()
    wanted = {*HOW[variant].weights, *BESIDE.get(variant, ())}
    for number, name in enumerate(MAKE):
        if name in wanted and not (folder / name).exists():
            torch.manual_seed(number)
            with adapter._quiet(), _small():
                torch.save(MAKE[name](), folder / name)
    return folder


@contextmanager
def undrawn(value: float) -> Iterator[None]:
    """Networks are made with this value instead of random ones, which take longest: what is not read from a file shows."""
    with pytest.MonkeyPatch.context() as patch:
        for draws in ("uniform_", "normal_"):
            patch.setattr(torch.Tensor, draws, lambda tensor, *_, **__: tensor.fill_(value))
        patch.setattr(torch.Tensor, "erfinv_", lambda tensor: tensor)
        yield


@contextmanager
def _small() -> Iterator[None]:
    """LeReS on ResNet-50, and not on a ResNeXt of 101 layers; its decoder a quarter as wide, its merger an eighth."""
    detectors()
    from controlnet_aux.leres.leres import network_auxi
    from controlnet_aux.leres.pix2pix.models import networks

    def narrow(self: Any, name: str, value: Any) -> None:
        torch.nn.Module.__setattr__(self, name, [width // 4 for width in value] if name == "midchannels" else value)

    define = networks.define_G
    if network_auxi.resnext101_stride32x8d is network_auxi.resnet50_stride32:
        yield  # as it is already
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "define_G", lambda ins, outs, width, *rest: define(ins, outs, width // 8, *rest))
        patch.setattr(network_auxi.Decoder, "__setattr__", narrow, raising=False)
        patch.setattr(network_auxi, "resnext101_stride32x8d", network_auxi.resnet50_stride32)
        yield


@contextmanager
def small_trunks() -> Iterator[None]:
    """ZoeDepth on a BEiT of 33 million parameters and not 305, at a quarter of the size; LeReS' depths of half the size.

    The mask with which LeReS merges has 300 pixels a side and not 3,000, and is enlarged where it is used, as ever.
    """
    detectors()
    import timm
    from controlnet_aux import zoe
    from controlnet_aux.leres.leres import depthmap

    mask, estimate = depthmap.generatemask, depthmap.estimateleres
    config = zoe.get_config("zoedepth", "infer")
    config.midas_model_type, config.img_size = "DPT_BEiT_B_384", [96, 128]
    create = timm.create_model

    def thin(name: str, **how: Any) -> Any:
        return create(name, **how, **{"mlp_ratio": 0.25} if name == "beit_base_patch16_384" else {})

    with _small(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthmap, "generatemask", lambda size: mask(tuple(side // 10 for side in size)))
        patch.setattr(depthmap, "estimateleres", lambda *seen: estimate(*seen[:-2], *(side // 2 for side in seen[-2:])))
        patch.setattr(zoe, "get_config", lambda *names: config)
        patch.setattr(timm, "create_model", thin)
        yield


@cache
def load(variant: str, folder: Path | None = None) -> Any:
    with undrawn(0.3), _small():
        return load_annotator(f"aux:{variant}", weights=Weights(folder, offline=True, say=lambda _: None))


@cache
def reference(variant: str, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """controlnet_aux alone, as its users call it: picture (H, W, 3) -> map."""
    how = HOW[variant]
    cls = getattr(detectors(), how.cls)
    kind = {"model_type": how.kind} if how.kind else {}
    with adapter._quiet(), undrawn(-0.3), _small(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program"])  # LeReS takes the program's options for its own
        detector = cls.from_pretrained(str(folder), **how.files, **kind) if how.files else cls()
    if how.cls == "LeresDetector":
        detector.model.eval()  # as LeReS' own code does and this one forgets

    def call(picture: np.ndarray) -> np.ndarray:
        side = min(picture.shape[:2])
        known = {"image_resolution": side} if how.cls not in NO_IMAGE_RESOLUTION else {}
        return np.asarray(detector(Image.fromarray(picture), detect_resolution=side, **known, **how.options))

    return call


NO_IMAGE_RESOLUTION = {"AnylineDetector", "LineartStandardDetector", "TEEDdetector"}


def picture(height: int, width: int) -> np.ndarray:
    """A piece of a photograph, a face at its top."""
    photograph = np.tile(data.astronaut()[:, 130:], (2, 2, 1))
    return np.ascontiguousarray(photograph[:height, :width])


def batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def variants(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]
