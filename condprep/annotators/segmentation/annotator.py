"""A class for each pixel, by semantic and panoptic models of transformers, painted in the class's colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from condprep.annotators.base import BaseAnnotator
from condprep.annotators.precision import ExactParams, autocast, resolve_precision
from condprep.annotators.pretrained import Pretrained, prepared, transformers
from condprep.annotators.segmentation.palettes import Palette, class_names, colours
from condprep.annotators.weighing import twin
from condprep.types import Maps, Seen
from condprep.weights.find import Weights

NEEDS = (
    "semantic or panoptic segmentation model of transformers (SegFormer, UperNet, BEiT, DPT, MaskFormer, Mask2Former, "
    "OneFormer): it needs config.json, preprocessor_config.json and model.safetensors"
)
UNIVERSAL = {"maskformer", "mask2former", "oneformer"}  # model types that answer with masks and the classes of masks

CLASSES = pa.list_(pa.struct({"id": pa.int32(), "name": pa.string(), "share": pa.float32()}))


class SegmentationParams(ExactParams):
    palette: Palette = Field(
        "auto", description="ade20k, coco, voc (any classes) or auto: that of the model's classes, else voc"
    )


class SegmentationModel:
    """A model of transformers with its own preprocessing and postprocessing."""

    def __init__(self, named: Pretrained, *, device: str, precision: str) -> None:
        package = transformers(named.door, named.variant)
        config = named.load(package.AutoConfig.from_pretrained, NEEDS)
        self.universal, self.told = config.model_type in UNIVERSAL, config.model_type == "oneformer"
        auto = package.AutoModelForUniversalSegmentation if self.universal else package.AutoModelForSemanticSegmentation
        processing = package.AutoProcessor if self.told else package.AutoImageProcessor
        self.processor = named.load(processing.from_pretrained, NEEDS)
        self.network = named.network(auto, NEEDS).to(device)
        self.names = class_names(self.network.config)
        self.device, self.precision = device, precision
        self.provenance: Mapping[str, Any] = named.provenance(getattr(self.network.config, "_commit_hash", None))
        self._filled: dict[
            tuple[int, int], tuple[int, int]
        ] = {}  # a picture's size -> what it fills of the network's input

    @torch.inference_mode()
    def __call__(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> classes (B, H, W), on the same device."""
        answer, inputs = self.answer(rgb)
        size = (rgb.shape[2], rgb.shape[3])
        if self.universal:
            answer = self._without_border(answer, inputs, size)
        found = self.processor.post_process_semantic_segmentation(answer, target_sizes=[size] * len(rgb))
        return torch.stack(found)

    def weigh(self, rgb: Tensor) -> list[Tensor]:
        """The classes of a picture without numbers; what the network was given may have a border, which takes no less.

        How likely each class is in each pixel comes first: OneFormer asks for numbers before it gets there.
        """
        torch.empty(len(self.names), *rgb.shape[2:], device=rgb.device)
        answer, _ = self.answer(rgb, twin(self.network, rgb))
        return self.processor.post_process_semantic_segmentation(answer, target_sizes=[tuple(rgb.shape[2:])])  # type: ignore[no-any-return]

    def answer(self, rgb: Tensor, network: Any = None) -> tuple[Any, dict[str, Any]]:
        """What the network answers, and what it was given."""
        further = {"task_inputs": ["semantic"] * len(rgb)} if self.told else {}
        inputs = dict(prepared(self.processor, rgb, **further))
        with autocast(self.precision, self.device):
            return (network or self.network)(**inputs), inputs

    def _without_border(self, answer: Any, inputs: Mapping[str, Any], size: tuple[int, int]) -> Any:
        """Masks of the picture alone: transformers stretches over it what its preprocessing padded."""
        padded = inputs["pixel_values"].shape[-2:]
        if size not in self._filled:
            mask = inputs.get("pixel_mask")
            filled = padded if mask is None else (int(mask[0, :, 0].sum()), int(mask[0, 0].sum()))
            self._filled[size] = (filled[0], filled[1])
        height, width = self._filled[size]
        if (height, width) == tuple(padded):
            return answer
        cut = copy(answer)
        masks = F.interpolate(answer.masks_queries_logits.float(), padded, mode="bilinear")
        cut.masks_queries_logits = masks[..., :height, :width]
        return cut


class Segmentation(BaseAnnotator):
    """Each pixel in the colour of its class; which classes there are is a column. Three channels."""

    name = "segmentation"
    binary = False
    plenty = 0  # it resizes pictures, small ones too
    columns: Mapping[str, pa.DataType] = {"segmentation_classes": CLASSES}

    def __init__(
        self, model: SegmentationModel, variant: str, palette: str, painted: np.ndarray, *, device: str
    ) -> None:
        """painted: (classes, 3) uint8 RGB."""
        self.model, self.variant, self.device = model, variant, device
        self.batch_size = 2 if device == "cpu" else 8
        self._painted = painted
        self._on_device = torch.from_numpy(painted.copy()).to(device)
        self.provenance: Mapping[str, Any] = {
            "parameters": {"precision": model.precision, "palette": palette},
            **model.provenance,
        }

    @torch.inference_mode()
    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 3, H, W) uint8.

        `segmentation_classes`: id, name and share of the picture's pixels of each class that is there, the largest first.
        """
        classes = self.model(rgb)
        values = [self._listed(one) for one in classes.cpu().numpy()]
        return Maps(self._on_device[classes].permute(0, 3, 1, 2), {"segmentation_classes": values})

    def see(self, rgb: Tensor, keys: Sequence[str]) -> Seen:
        """The classes, (B, H, W): fewer bytes than their colours."""
        classes = self.model(rgb)
        return Seen([classes.to(torch.uint8 if len(self._painted) <= 256 else torch.int16)], [None] * len(keys))

    def weigh(self, rgb: Tensor) -> object:
        """Its classes; their colours take less."""
        return self.model.weigh(rgb)

    def draw(self, arrays: Sequence[np.ndarray], found: None) -> tuple[np.ndarray, dict[str, Any]]:
        """Of one picture: classes (H, W) -> the map (H, W, 3), and the column."""
        return self._painted[arrays[0]], {"segmentation_classes": self._listed(arrays[0])}

    def _listed(self, classes: np.ndarray) -> list[dict[str, Any]]:
        number, count = np.unique(classes, return_counts=True)
        order = np.argsort(-count, kind="stable")
        names, shares = self.model.names, count / classes.size
        return [{"id": int(number[n]), "name": names[int(number[n])], "share": float(shares[n])} for n in order]


def load(variant: str, params: SegmentationParams, *, device: str, weights: Weights) -> Segmentation:
    """`segmentation:OWNER/MODEL`, or a local folder. Raises WeightsError, and AnnotatorError for a palette that does not fit."""
    named = Pretrained.of("segmentation", variant, weights)
    model = SegmentationModel(
        named, device=device, precision=resolve_precision(params.precision, device, "segmentation")
    )
    palette, painted = colours(params.palette, model.names)
    if palette == "voc" and params.palette == "auto":
        weights.say(
            f"{named} has {len(painted)} classes, neither ADE20K's 150 nor COCO's 133, on which ControlNets were trained: "
            "its colours are PASCAL VOC's"
        )
    return Segmentation(model, variant, palette, painted, device=device)
