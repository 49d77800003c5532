"""OpenPose: people found by the CMU networks and drawn as ControlNet was trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from condprep.annotators.precision import Precision
from condprep.annotators.protocol import Annotator
from condprep.errors import AnnotatorError, WeightsUnavailable

if TYPE_CHECKING:
    from condprep.annotators.openpose.annotator import Openpose
    from condprep.weights.find import WeightFile, Weights

BODY, HAND, FACE = "body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"

# variant -> its networks
CMU = {"cmu": (BODY,), "hand": (BODY, HAND), "face": (BODY, FACE), "full": (BODY, HAND, FACE)}


class OpenposeParams(BaseModel):
    """How people are looked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision = Field(
        "auto",
        description="all but blaze: fp32, bf16, fp16 or auto: fp16 on a GPU, else fp32; half precision moves some joints a pixel",
    )
    tiles: int = Field(
        2, ge=0, le=3, description="blaze: 0 finds one or two people and is fast, 3 finds small ones too and is slow"
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="joints, and points of hands and faces, are drawn and kept where their confidence, 0 to 1, is above it"
        " (default: all that are found; of blaze 0.3)",
    )


def load(variant: str, params: OpenposeParams, *, device: str, weights: Weights) -> Annotator:
    """`openpose:cmu`, `hand`, `face`, `full`, `blaze`, or plain `openpose`: cmu, or blaze where its weights are out of reach.

    That is said in a line, and with strict weights it raises WeightsUnavailable, as missing weights of a variant that
    was asked for do. Raises WeightsError for damaged ones and AnnotatorError for a parameter that the loaded variant
    would not heed.
    """
    files = {} if variant == "blaze" else _find(variant, weights)
    loaded, foreign = (variant or "cmu", "tiles") if files else ("blaze", "precision")
    if getattr(params, foreign) != OpenposeParams.model_fields[foreign].default:
        raise AnnotatorError(
            f"openpose.{foreign} has no meaning for openpose:{loaded}, which is used here; leave it out"
        )
    if files:
        return _cmu(loaded, files, params, device)
    from condprep.annotators.openpose.blaze.annotator import load as load_blaze

    return load_blaze(params, device=device, weights=weights)


def _find(variant: str, weights: Weights) -> dict[str, WeightFile]:
    """The weights of the CMU networks; none where blaze has to stand in for them."""
    try:
        return {name: weights.get(name) for name in CMU[variant or "cmu"]}
    except WeightsUnavailable:
        if variant or weights.strict:
            raise
    weights.say(
        f"openpose: {BODY} is neither on disk nor reachable. USING openpose:blaze INSTEAD: other networks (BlazePose, "
        "Apache-2.0), similar but not the same poses. --strict-weights makes this an error."
    )
    return {}


def _cmu(variant: str, files: Mapping[str, WeightFile], params: OpenposeParams, device: str) -> Openpose:
    from condprep.annotators.openpose.annotator import Openpose, resolve_precision
    from condprep.annotators.openpose.network import load_network
    from condprep.annotators.openpose.point_network import FACE_MAPS, HAND_MAPS, PointNetwork
    from condprep.weights.pins import pin

    precision = resolve_precision(params.precision, device)
    return Openpose(
        load_network(files[BODY]),
        hand=load_network(files[HAND], partial(PointNetwork, HAND_MAPS)) if HAND in files else None,
        face=load_network(files[FACE], partial(PointNetwork, FACE_MAPS)) if FACE in files else None,
        device=device,
        precision=precision,
        threshold=params.threshold,
        variant=variant,
        provenance={
            "parameters": {"precision": precision}
            | ({} if params.threshold is None else {"threshold": params.threshold}),
            "weights": {name: file.sha256 for name, file in files.items()},
            "licence": pin(BODY).licence,
            "commercial": pin(BODY).commercial,
        },
    )
