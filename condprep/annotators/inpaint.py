"""inpaint: the picture with a part missing, at random places that the picture's key draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from condprep.annotators.base import BaseAnnotator, check_picture
from condprep.annotators.pixel_columns import png
from condprep.types import Maps

if TYPE_CHECKING:
    from torch import Tensor

    from condprep.weights.find import Weights

LEAST, MOST = 10, 90  # percent of a picture that are missing, drawn evenly: the range of ControlNet 1.1's masks
BLOBS = (2, 9)  # random values along the short side whose smooth surface is cut: few large holes to many small ones
MASK = pa.struct({"png": pa.binary()})


class InpaintParams(BaseModel):
    """How much is missing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    least: int = Field(LEAST, ge=0, le=100, description="percent of the picture that are missing at least")
    most: int = Field(MOST, ge=0, le=100, description="percent of the picture that are missing at most")

    @model_validator(mode="after")
    def _ordered(self) -> InpaintParams:
        if self.least > self.most:
            raise ValueError(f"least = {self.least} is above most = {self.most}")
        return self


class Inpaint(BaseAnnotator):
    """The picture, black where it is missing, three channels. On the CPU, in the caller's thread."""

    name, variant = "inpaint", ""
    device = "cpu"
    batch_size = 1
    binary = False
    columns: Mapping[str, pa.DataType] = {"inpaint_mask": MASK}

    def __init__(self, params: InpaintParams) -> None:
        self._params = params
        self.provenance: Mapping[str, Any] = {
            "parameters": params.model_dump(),
            "weights": {},
            "licence": "Apache-2.0",
            "commercial": True,
        }

    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 3, H, W) uint8; `inpaint_mask`: a grey PNG, 255 where the picture is missing."""
        import torch

        pictures = rgb.permute(0, 2, 3, 1).contiguous().numpy()
        done = [self.picture(picture, key) for picture, key in zip(pictures, keys, strict=True)]
        maps = torch.from_numpy(np.stack([one for one, _ in done])).permute(0, 3, 1, 2)
        return Maps(maps, {name: [further[name] for _, further in done] for name in self.columns})

    def picture(self, rgb: np.ndarray, key: str) -> tuple[np.ndarray, dict[str, Any]]:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8, and the column. Raises AnnotatorError for another array."""
        check_picture(rgb, self.name)
        missing = holes(key, rgb.shape[0], rgb.shape[1], self._params.least, self._params.most)
        mask = png(np.where(missing, np.uint8(255), np.uint8(0)))
        return np.where(missing[..., None], np.uint8(0), rgb), {"inpaint_mask": {"png": mask}}


def holes(key: str, height: int, width: int, least: int, most: int) -> NDArray[np.bool_]:
    """(height, width), True where the picture is missing: the lowest `least` to `most` percent of a smooth random surface.

    ControlNet 1.1 cuts another picture's levels at a percentile drawn likewise. It follows from the key alone.
    """
    draw = np.random.Generator(np.random.PCG64(int.from_bytes(sha256(f"inpaint {key}".encode()).digest()[:16])))
    along = int(draw.integers(*BLOBS))
    short = min(height, width)
    cells = [min(-(-side * along // short), side) + 1 for side in (height, width)]
    surface = cv2.resize(draw.random(cells, np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    wanted = round(draw.uniform(least, most) / 100 * surface.size)
    missing = np.zeros(surface.size, np.bool_)
    missing[np.argsort(surface, axis=None, kind="stable")[:wanted]] = True
    return missing.reshape(height, width)


def load(variant: str, params: InpaintParams, *, device: str, weights: Weights) -> Inpaint:
    """`inpaint`."""
    return Inpaint(params)
