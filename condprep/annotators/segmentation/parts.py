"""mask:OWNER/MODEL of a Segment Anything model: everything that can be told apart, each in a colour of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from condprep.annotators.base import BaseAnnotator
from condprep.annotators.precision import autocast
from condprep.annotators.pretrained import Pretrained, transformers
from condprep.annotators.segmentation.palettes import voc
from condprep.types import Maps

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = {
    "sam",
    "sam_hq",
    "sam2",
    "sam2_video",
}  # model types of transformers; a checkpoint of SAM 2 says that it is of videos
AT_ONCE = 64 * 3  # points that the pipeline asks about together, and masks of each
NEEDS = "Segment Anything model of transformers: it needs config.json, preprocessor_config.json and model.safetensors"


class Parts(BaseAnnotator):
    """The masks that transformers' `mask-generation` finds without being told where, painted from the largest on, three channels.

    What no mask covers is black. The colours are PASCAL VOC's, in this order: they say what belongs together, not what it is.
    """

    name = "mask"
    binary = False
    plenty = 0

    def __init__(
        self, pipeline: Any, variant: str, provenance: Mapping[str, Any], *, device: str, precision: str
    ) -> None:
        """pipeline: `transformers.MaskGenerationPipeline`."""
        self.pipeline, self.variant, self.device, self.precision = pipeline, variant, device, precision
        self.batch_size = 2  # it takes a picture at a time, with some thousand points
        self.columns: Mapping[str, pa.DataType] = {}
        self.provenance: Mapping[str, Any] = {"parameters": {"precision": precision}, **provenance}

    @torch.inference_mode()
    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 3, H, W) uint8."""
        from PIL import Image

        pictures = map(Image.fromarray, rgb.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        with autocast(self.precision, self.device):
            found = [self._masks(picture) for picture in pictures]
        painted = np.stack([paint([np.asarray(mask) for mask in masks], rgb.shape[2], rgb.shape[3]) for masks in found])
        return Maps(torch.from_numpy(painted).permute(0, 3, 1, 2).to(rgb.device))

    def _masks(self, picture: Any) -> Any:
        """As `pipeline(picture)` finds them, which would take numbers of torch's generator for a DataLoader of one picture."""
        pipe = self.pipeline
        return pipe.run_single(picture, pipe._preprocess_params, pipe._forward_params, pipe._postprocess_params)[
            "masks"
        ]

    def weigh(self, rgb: Tensor) -> Tensor:
        """The masks that transformers has at once in the picture's size; the network sees pictures of one size."""
        return torch.empty(AT_ONCE, *rgb.shape[2:], device=rgb.device)


def paint(masks: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Masks (height, width) bool -> (height, width, 3) uint8: smaller ones lie on larger ones, of equals the later one."""
    number = np.zeros((height, width), np.int64)
    order = sorted(masks, key=np.count_nonzero, reverse=True)
    for place, mask in enumerate(order, 1):
        number[mask] = place
    return np.ascontiguousarray(voc(len(order) + 1)[number])


def load(named: Pretrained, *, device: str, precision: str) -> Parts:
    """The annotator of such a model. Raises WeightsError."""
    package = transformers(named.door, named.variant)
    processor = named.load(package.AutoImageProcessor.from_pretrained, NEEDS)
    network = named.network(package.AutoModelForMaskGeneration, NEEDS)
    provenance = named.provenance(getattr(network.config, "_commit_hash", None))
    pipeline = package.MaskGenerationPipeline(model=network, image_processor=processor, device=torch.device(device))
    return Parts(pipeline, named.variant, provenance, device=device, precision=precision)
