"""The detectors of controlnet_aux that condprep offers as `aux:NAME`: what each is, needs, and is called with.

Those that condprep has itself (canny, hed, midas, openpose) are not here, nor are those that cannot keep its promises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from condprep.weights.pins import pin


@dataclass(frozen=True)
class AuxDetector:
    """One detector and how it is called."""

    cls: str  # its class in controlnet_aux
    summary: str
    files: Mapping[str, str] = field(default_factory=dict)  # argument of its from_pretrained -> weights file
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of its call
    channels: int = 1  # 1: its three channels are the same
    least: int = 1  # pixels of a picture's long side, below which its code fails
    needs: str = ""  # a package beside controlnet_aux, as pip is told
    kind: str = ""  # which of its class's networks, where there are several
    whole: str = ""  # where it has its network, if that sees all of a picture at its own size

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


LERES = {"filename": "res101.pth"}
SEGMENTS = "segments of anything, in colours drawn per key"

DETECTORS = {
    "lineart_standard": AuxDetector("LineartStandardDetector", "what is darker than its surroundings; no network"),
    "anyline": AuxDetector(
        "AnylineDetector",
        "TEED edges in three levels, with dark lines",
        files={"filename": "MTEED.pth"},
        whole="model",
    ),
    "zoe": AuxDetector("ZoeDetector", "depth of rooms, near is white", files={"filename": "ZoeD_M12_N.pt"}),
    "leres": AuxDetector("LeresDetector", "depth, near is white", files=LERES),
    "leres++": AuxDetector(
        "LeresDetector",
        "the same in finer detail, from several resolutions",
        files={**LERES, "pix2pix_filename": "latest_net_G.pth"},
        options={"boost": True},
        least=129,
    ),
    "sam": AuxDetector("SamDetector", SEGMENTS, files={"filename": "sam_vit_h_4b8939.pth"}, channels=3, kind="vit_h"),
    "mobile_sam": AuxDetector(
        "SamDetector", "the same by a small network", files={"filename": "mobile_sam.pt"}, channels=3, kind="vit_t"
    ),
    "shuffle": AuxDetector(
        "ContentShuffleDetector", "the picture's colours, shuffled by a warp drawn per key", channels=3
    ),
    "mediapipe_face": AuxDetector(
        "MediapipeFaceDetector", "the contours of one face", channels=3, needs="mediapipe==0.10.21"
    ),
}

# The others of controlnet_aux: why they are not offered, and what is instead.
LEFT_OUT = {
    **{
        name: f"condprep has it itself, batched: {name}"
        for name in (
            "canny",
            "hed",
            "midas",
            "openpose",
            "lineart",
            "lineart_anime",
            "mlsd",
            "pidinet",
            "teed",
            "normalbae",
        )
    },
    "dwpose": "it needs mmcv, which PyPI has as source alone, to be compiled for one version of torch; use openpose:full",
}
