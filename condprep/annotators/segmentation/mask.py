"""mask:OWNER/MODEL: what stands before the background, by models of transformers that tell the two apart; of SAM see `parts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from condprep.annotators.base import BaseAnnotator
from condprep.annotators.precision import ExactParams, resolve_precision
from condprep.annotators.pretrained import Pretrained, transformers
from condprep.annotators.segmentation import parts
from condprep.annotators.segmentation.annotator import NEEDS, SegmentationModel
from condprep.errors import AnnotatorError
from condprep.types import Maps
from condprep.weights.find import Weights

if TYPE_CHECKING:
    import pyarrow as pa

BACKGROUND = {"background", "bg", "_background_", "unlabeled"}  # names of a class 0 that is no thing
SHOWN = 3  # classes that are named


class Mask(BaseAnnotator):
    """255 where there is something, 0 where there is background, one channel."""

    name = "mask"
    binary = True
    plenty = 0  # it resizes pictures, small ones too

    def __init__(self, model: SegmentationModel, variant: str, *, device: str) -> None:
        self.model, self.variant, self.device = model, variant, device
        self.batch_size = 2 if device == "cpu" else 8
        self.columns: Mapping[str, pa.DataType] = {}
        self.provenance: Mapping[str, Any] = {"parameters": {"precision": model.precision}, **model.provenance}

    @torch.inference_mode()
    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 1, H, W) uint8."""
        if len(self.model.names) == 1:  # how likely it is something, as a logit
            logits = F.interpolate(self.model.answer(rgb)[0].logits.float(), rgb.shape[-2:], mode="bilinear")
            something = logits[:, 0] > 0
        else:
            something = self.model(rgb) != 0
        return Maps(something[:, None].to(torch.uint8) * 255)

    def weigh(self, rgb: Tensor) -> object:
        """Its classes."""
        return self.model.weigh(rgb)


def load(variant: str, params: ExactParams, *, device: str, weights: Weights) -> Mask | parts.Parts:
    """`mask:OWNER/MODEL`, or a local folder. Raises WeightsError, and AnnotatorError for a model that knows no background."""
    named, precision = Pretrained.of("mask", variant, weights), resolve_precision(params.precision, device, "mask")
    config = named.load(transformers("mask", variant).AutoConfig.from_pretrained, NEEDS)
    if config.model_type in parts.KINDS:
        return parts.load(named, device=device, precision=precision)
    model = SegmentationModel(named, device=device, precision=precision)
    if len(model.names) > 1 and model.names[0].strip().lower() not in BACKGROUND:
        first = ", ".join(list(model.names.values())[:SHOWN])
        raise AnnotatorError(
            f"{named} knows no background: its {len(model.names)} classes begin with {first}; "
            f"segmentation:{variant} shows them all"
        )
    return Mask(model, variant, device=device)
