"""Named settings: how others measure, so that a number says how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import ModelError


@dataclass(frozen=True, slots=True)
class Protocol:
    """Settings that belong together."""

    resolution: int  # pixels
    steps: int  # of UniPC
    cfg: float
    pictures: int  # of each caption
    annotators: Mapping[str, tuple[str, Mapping[str, Any]]]  # kind of condition -> who annotates, with which parameters
    measures: Mapping[str, str]  # kind -> the measure in its table


PROTOCOLS = {
    # Li et al., "ControlNet++: Improving Conditional Controls with Efficient Consistency Feedback", ECCV 2024, table 2
    "controlnet-plus-plus": Protocol(
        resolution=512,
        steps=20,
        cfg=7.5,
        pictures=4,
        annotators={"canny": ("canny", {"low": 100, "high": 200}), "softedge": ("hed", {}), "depth": ("depth", {})},
        measures={"canny": "f1_0px", "softedge": "ms_ssim", "depth": "depth_rmse"},
    )
}


def protocol(name: str) -> Protocol:
    """Raises ModelError for a name that is not known."""
    if name not in PROTOCOLS:
        raise ModelError(f"--protocol {name!r} is not known; there is {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
