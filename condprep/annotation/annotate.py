"""condprep.annotate: condition maps of a few pictures, by annotators that are loaded for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condprep.annotation.pictures import Annotated, Picture
from condprep.annotation.session import Session
from condprep.types import Reject

if TYPE_CHECKING:
    from condprep.weights.find import Weights


def annotate(
    images: Sequence[Picture],
    annotators: str | Sequence[str] = (),
    *,
    like: str | Path | None = None,
    params: Mapping[str, Mapping[str, Any]] | None = None,
    resolution: int | None = None,
    fit: str | None = None,
    device: str = "auto",
    weights: Weights | None = None,
    trust_annotators: Sequence[str] = (),
) -> list[Annotated | Reject]:
    """Maps of `images`, in their order; a picture that cannot be read is a Reject with its reason.

    A `Session` that is thrown away: whoever calls this more than once keeps a Session, which loads its networks once.
    annotators: names as "canny" or "openpose:blaze". like: a dataset made by condprep, whose annotators, parameters and
    geometry are repeated exactly instead. params: {"canny": {"low": 50}}. fit: "keep" (the size as it is, the default),
    "crop", "bucket" or "pad" to `resolution` pixels (default 512). trust_annotators: names that `like` may name beside
    condprep's own: models of others and plug-ins. Raises UsageError for what the caller got wrong,
    WeightsError for weights.
    """
    session = Session(
        annotators,
        like=like,
        params=params,
        resolution=resolution,
        fit=fit,
        device=device,
        weights=weights,
        trust_annotators=trust_annotators,
    )
    return session(images)
