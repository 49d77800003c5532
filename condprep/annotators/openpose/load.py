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
MOVENET = ("movenet-multipose.json", "movenet-multipose.bin", "movenet-thunder.json", "movenet-thunder.bin")
DWPOSE = ("yolox_l.onnx", "dw-ll_ucoco_384.onnx")  # finds people; finds the points of each

# what plain `openpose` is where the CMU's weights cannot be had: the first whose files are at hand, else blaze
STAND_INS = {"dwpose": (DWPOSE, "YOLOX and RTMPose"), "movenet": (MOVENET, "MoveNet"), "blaze": ((), "BlazePose")}

# variant -> its networks
CMU = {"cmu": (BODY,), "hand": (BODY, HAND), "face": (BODY, FACE), "full": (BODY, HAND, FACE)}


class OpenposeParams(BaseModel):
    """How people are looked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision = Field(
        "auto",
        description="all but blaze and movenet: fp32, bf16, fp16 or auto: fp16 on a GPU, else fp32, and for dwpose always fp32; half precision moves some joints a pixel",
    )
    tiles: int = Field(
        2, ge=0, le=3, description="blaze: 0 finds one or two people and is fast, 3 finds small ones too and is slow"
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="joints, and points of hands and faces, are drawn and kept where their confidence, 0 to 1, is above it"
        " (default: all that are found; of dwpose and blaze 0.3, of movenet 0.2)",
    )


def load(variant: str, params: OpenposeParams, *, device: str, weights: Weights) -> Annotator:
    """`openpose:cmu`, `hand`, `face`, `full`, `dwpose`, `movenet`, `blaze` ..., or plain `openpose`: cmu, or what is there instead.

    That is said in a line, and with strict weights it raises WeightsUnavailable, as missing weights of a variant that
    was asked for do. Raises WeightsError for damaged ones and AnnotatorError for a parameter that the loaded variant
    would not heed.
    """
    loaded = variant or _plain(weights)
    for foreign in {"blaze": ("precision",), "movenet": ("precision", "tiles")}.get(loaded, ("tiles",)):
        if getattr(params, foreign) != OpenposeParams.model_fields[foreign].default:
            raise AnnotatorError(
                f"openpose.{foreign} has no meaning for openpose:{loaded}, which is used here; leave it out"
            )
    if loaded == "movenet":
        from condprep.annotators.openpose.movenet.annotator import Movenet

        return Movenet([weights.get(name) for name in MOVENET], device=device, threshold=params.threshold)
    if loaded == "blaze":
        from condprep.annotators.openpose.blaze.annotator import load as load_blaze

        return load_blaze(params, device=device, weights=weights)
    if loaded in CMU:
        return _cmu(loaded, {name: weights.get(name) for name in CMU[loaded]}, params, device)
    from condprep.annotators.openpose.dwpose.annotator import Dwpose

    precision = "fp32" if params.precision == "auto" else params.precision
    files = [weights.get(name) for name in DWPOSE]
    return Dwpose(*files, variant=loaded, device=device, precision=precision, threshold=params.threshold)


def _plain(weights: Weights) -> str:
    """The variant that plain `openpose` is here."""
    try:
        weights.get(BODY)
        return "cmu"
    except WeightsUnavailable:
        if weights.strict:
            raise
    variant = next(variant for variant, (files, _) in STAND_INS.items() if all(map(weights.locate, files)))
    weights.say(
        f"openpose: {BODY} is neither on disk nor reachable. USING openpose:{variant} INSTEAD: other networks ({STAND_INS[variant][1]}, "
        "Apache-2.0), similar but not the same poses. --strict-weights makes this an error."
    )
    return variant


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
