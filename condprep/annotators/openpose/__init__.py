"""OpenPose: bodies found by the CMU network and drawn as ControlNet was trained on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from condprep.annotators.base import Annotator
from condprep.annotators.precision import Precision
from condprep.errors import AnnotatorError, WeightsUnavailable

if TYPE_CHECKING:
    from condprep.annotators.openpose.annotator import Openpose
    from condprep.weights import WeightFile, Weights

BODY = "body_pose_model.pth"


class OpenposeParams(BaseModel):
    """How people are looked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision = Field(
        "auto",
        description="cmu: fp32, bf16, fp16 or auto: fp16 on a GPU, else fp32; half precision moves some joints a pixel",
    )
    tiles: int = Field(
        2, ge=0, le=3, description="blaze: 0 finds one or two people and is fast, 3 finds small ones too and is slow"
    )


def load(variant: str, params: OpenposeParams, *, device: str, weights: Weights) -> Annotator:
    """`openpose:cmu`, `openpose:blaze`, or plain `openpose`: cmu, or blaze where cmu's weights are out of reach.

    That is said in a line, and with strict weights it raises WeightsUnavailable. Raises WeightsError for damaged ones
    and AnnotatorError for a parameter that the loaded variant would not heed.
    """
    file = None if variant == "blaze" else _find(variant, weights)
    loaded, foreign = ("cmu", "tiles") if file else ("blaze", "precision")
    if getattr(params, foreign) != OpenposeParams.model_fields[foreign].default:
        raise AnnotatorError(
            f"openpose.{foreign} has no meaning for openpose:{loaded}, which is used here; leave it out"
        )
    if file:
        return _cmu(file, params, device)
    from condprep.annotators import blaze

    return blaze.load(params, device=device, weights=weights)


def _find(variant: str, weights: Weights) -> WeightFile | None:
    """The CMU network's weights; None where blaze has to stand in for them."""
    try:
        return weights.get(BODY)
    except WeightsUnavailable:
        if variant or weights.strict:
            raise
    weights.say(
        f"openpose: {BODY} is neither on disk nor reachable. USING openpose:blaze INSTEAD: other networks (BlazePose, "
        "Apache-2.0), similar but not the same poses. --strict-weights makes this an error."
    )
    return None


def _cmu(file: WeightFile, params: OpenposeParams, device: str) -> Openpose:
    from condprep.annotators.openpose.annotator import Openpose, resolve
    from condprep.annotators.openpose.network import load_network
    from condprep.pins import pin

    precision = resolve(params.precision, device)
    provenance = {
        "parameters": {"precision": precision},
        "weights": {file.name: file.sha256},
        "licence": pin(file.name).licence,
        "commercial": pin(file.name).commercial,
    }
    return Openpose(load_network(file), device=device, precision=precision, provenance=provenance)
