"""Named settings: how others measure, so that a number says how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import ModelError


@dataclass(frozen=True, slots=True)
class AnnotatorChoice:
    """Who annotates the pictures of one kind of condition."""

    annotator: str
    params: Mapping[str, Any]
    remakes: bool  # also makes the conditions, from the real pictures; else they are the dataset's


@dataclass(frozen=True, slots=True)
class EvaluationProtocol:
    """Settings that belong together."""

    resolution: int  # pixels
    steps: int  # of UniPC
    cfg: float
    pictures: int  # of each caption
    negative_prompt: str
    annotators: Mapping[
        str, AnnotatorChoice
    ]  # kind of condition -> who annotates; a kind that is not here: the dataset's own
    measures: Mapping[str, str]  # kind -> the measure in its table


PROTOCOLS = {
    # Li et al., "ControlNet++: Improving Conditional Controls with Efficient Consistency Feedback", ECCV 2024, as its
    # published evaluation scripts do it (eval/eval.py, eval_edge.py, eval_depth.py). Its Canny is kornia's, which is
    # not to be had here: 100 and 200 are the thresholds of its variant for OpenCV's.
    "controlnet-plus-plus": EvaluationProtocol(
        resolution=512,
        steps=20,
        cfg=7.5,
        pictures=4,
        negative_prompt="worst quality, low quality",
        annotators={
            "canny": AnnotatorChoice("canny", {"low": 100, "high": 200}, remakes=True),
            "softedge": AnnotatorChoice("hed", {}, remakes=True),
            "depth": AnnotatorChoice("depth:Intel/dpt-large", {}, remakes=False),
        },
        measures={"canny": "f1_0px", "softedge": "ms_ssim", "lineart": "ms_ssim", "depth": "depth_rmse"},
    )
}


def protocol(name: str) -> EvaluationProtocol:
    """Raises ModelError for a name that is not known."""
    if name not in PROTOCOLS:
        raise ModelError(f"--protocol {name!r} is not known; there is {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
