"""OpenPose: people found by the CMU networks and drawn as ControlNet was trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from condprep.annotators.precision import Precision, resolve_precision
from condprep.annotators.protocol import Annotator
from condprep.errors import AnnotatorError, WeightsUnavailable

if TYPE_CHECKING:
    from condprep.annotators.openpose.annotator import Openpose
    from condprep.weights.find import WeightFile, Weights

BODY, HAND, FACE = "body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"
BLAZE = ("movenet-multipose.json", "movenet-multipose.bin", "movenet-thunder.json", "movenet-thunder.bin")
DWPOSE = ("yolox_l.onnx", "dw-ll_ucoco_384.onnx")  # finds people; finds the points of each

# what plain `openpose` is where the CMU's weights cannot be had
STAND_INS = {"dwpose": "YOLOX and RTMPose", "blaze": "MoveNet"}

# variant -> its networks
CMU = {"cmu": (BODY,), "hand": (BODY, HAND), "face": (BODY, FACE), "full": (BODY, HAND, FACE)}


class OpenposeParams(BaseModel):
    """How people are looked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision = Field(
        "auto",
        description="all but blaze: fp32, bf16, fp16 or auto: fp16 on a GPU, else fp32, and for dwpose always fp32; half precision moves some joints a pixel",
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="joints, and points of hands and faces, are drawn and kept where their confidence, 0 to 1, is above it"
        " (default: all that are found; of dwpose 0.3, of blaze 0.25)",
    )


def load(variant: str, params: OpenposeParams, *, device: str, weights: Weights) -> Annotator:
    """`openpose:cmu`, `hand`, `face`, `full`, `dwpose`, `blaze` ..., or plain `openpose`: cmu, or what is there instead.

    That is said in a line, and with strict weights it raises WeightsUnavailable, as missing weights of a variant that
    was asked for do. Raises WeightsError for damaged ones and AnnotatorError for a parameter that the loaded variant
    would not heed.
    """
    loaded = variant or _plain(weights)
    if loaded == "blaze":
        if params.precision != "auto":
            raise AnnotatorError(
                "openpose.precision has no meaning for openpose:blaze, which is used here; leave it out"
            )
        from condprep.annotators.openpose.blaze.annotator import Blaze

        return Blaze([weights.get(name) for name in BLAZE], device=device, threshold=params.threshold)
    if loaded in CMU:
        return _cmu(loaded, {name: weights.get(name) for name in CMU[loaded]}, params, device)
    from condprep.annotators.openpose.dwpose.annotator import Dwpose

    precision = resolve_precision(params.precision, device, "dwpose")
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
    variant = "dwpose" if all(map(weights.locate, DWPOSE)) else "blaze"
    weights.say(
        f"openpose: {BODY} is neither on disk nor reachable. USING openpose:{variant} INSTEAD: other networks ({STAND_INS[variant]}, "
        "Apache-2.0), similar but not the same poses. --strict-weights makes this an error."
    )
    return variant


def _cmu(variant: str, files: Mapping[str, WeightFile], params: OpenposeParams, device: str) -> Openpose:
    from condprep.annotators.openpose.annotator import Openpose
    from condprep.annotators.openpose.network import load_network
    from condprep.annotators.openpose.point_network import FACE_MAPS, HAND_MAPS, PointNetwork
    from condprep.weights.pins import pin

    precision = resolve_precision(params.precision, device, "openpose")
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
