"""The detectors of controlnet_aux that condprep offers as `aux:NAME`: what each is, needs, and is called with.

Those that condprep has itself (canny, hed, midas, openpose) are not here, nor are those that cannot keep its promises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from condprep.pins import pin


@dataclass(frozen=True)
class Detector:
    """One detector and how it is called."""

    cls: str  # its class in controlnet_aux
    summary: str
    files: Mapping[str, str] = field(default_factory=dict)  # argument of its from_pretrained -> weights file
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of its call
    channels: int = 1  # 1: its three channels are the same
    binary: bool = False  # its maps hold only 0 and 255
    grid: int = 64  # sides in multiples of this are not resized inside it
    needs: str = ""  # a package beside controlnet_aux, as pip is told

    @property
    def weights(self) -> tuple[str, ...]:
        """Its weights files, each once."""
        return tuple(dict.fromkeys(self.files.values()))

    @property
    def licence(self) -> str:
        """Of its weights; of its code where it has none."""
        return "; ".join(dict.fromkeys(pin(name).licence for name in self.weights)) or "Apache-2.0"

    @property
    def commercial(self) -> bool:
        """Whether commercial use of its maps is allowed."""
        return all(pin(name).commercial for name in self.weights)


PIDINET = {"filename": "table5_pidinet.pth"}

DETECTORS = {
    # LineartDetector wants the weights of both its styles and uses one of them: it is given the same file twice.
    "lineart": Detector(
        "LineartDetector",
        "line drawing, light on dark",
        files=dict.fromkeys(("filename", "coarse_filename"), "sk_model.pth"),
    ),
    "lineart_coarse": Detector(
        "LineartDetector",
        "the same in fewer, bolder lines",
        files=dict.fromkeys(("filename", "coarse_filename"), "sk_model2.pth"),
        options={"coarse": True},
    ),
    "lineart_anime": Detector(
        "LineartAnimeDetector", "line drawing of anime", files={"filename": "netG.pth"}, grid=256
    ),
    "lineart_standard": Detector("LineartStandardDetector", "what is darker than its surroundings; no network"),
    "anyline": Detector(
        "AnylineDetector", "TEED edges in three levels, with dark lines", files={"filename": "MTEED.pth"}
    ),
    "mlsd": Detector(
        "MLSDdetector", "straight line segments", files={"filename": "mlsd_large_512_fp32.pth"}, binary=True
    ),
    "pidinet": Detector("PidiNetDetector", "soft edges", files=PIDINET),
    "pidinet_safe": Detector("PidiNetDetector", "the same in three levels", files=PIDINET, options={"safe": True}),
    "pidinet_scribble": Detector(
        "PidiNetDetector", "the strongest as thick strokes", files=PIDINET, options={"scribble": True}, binary=True
    ),
    "normalbae": Detector("NormalBaeDetector", "surface normals", files={"filename": "scannet.pt"}, channels=3),
    "shuffle": Detector(
        "ContentShuffleDetector", "the picture's colours, shuffled by a warp drawn per key", channels=3
    ),
    "mediapipe_face": Detector(
        "MediapipeFaceDetector", "the contours of one face", channels=3, needs="mediapipe==0.10.21"
    ),
}

_LERES = "controlnet_aux leaves its batch normalisation in training mode, so that its maps are not LeReS's; use depth"

# The others of controlnet_aux: why they are not offered, and what is instead.
LEFT_OUT = {
    **{name: f"condprep has it itself, batched: {name}" for name in ("canny", "hed", "midas", "openpose")},
    "dwpose": "it needs mmcv, which has no ready-made wheels for torch 2.6 and later; use openpose:full",
    **dict.fromkeys(("leres", "leres++"), _LERES),
    "zoe": "controlnet_aux loads checkpoints that do not fit as if they did; use depth:Intel/zoedepth-nyu",
    "teed": "its weights have no sha256 that could be confirmed; use aux:anyline, the same network",
    "sam": "its colours are drawn at random and it fails where it finds nothing",
}
