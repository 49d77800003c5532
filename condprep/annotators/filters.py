"""tile, blur, gray, color, scribble: conditions that need no network. A filter is a function of a picture and its parameters.

gray, color and scribble are those of comfyui_controlnet_aux at equal size; see each for what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from condprep.annotators.base import BaseAnnotator, check_picture
from condprep.types import Maps

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from condprep.weights.find import Weights

Picture = NDArray[np.uint8]  # (H, W, 3) RGB; of a map also (H, W)

CELL = 64  # pixels, side of a square of `color`: what T2I-Adapter's color was trained on
FINE, COARSE = 0.5, 5.0  # pixels, standard deviations of the two blurs of `scribble`


class _Params(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TileParams(_Params):
    """How much is lost."""

    factor: int = Field(
        8, ge=2, le=64, description="how many times smaller the picture is made before it is enlarged again"
    )


class BlurParams(_Params):
    """How much is lost."""

    sigma: float = Field(8.0, gt=0, le=128, description="standard deviation of the Gaussian, pixels")


class GrayParams(_Params):
    """How light the map is."""

    gamma: float = Field(1.0, gt=0, le=10, description="exponent of the levels, 0 to 1; above 1 is darker")


class ColorParams(_Params):
    """Nothing can be set."""


class ScribbleParams(_Params):
    """What is a stroke."""

    threshold: int = Field(32, ge=1, le=64, description="of the difference of two blurs; lower draws more")


class PictureFilter(BaseAnnotator):
    """A function of one picture, on the CPU, in the caller's thread."""

    device = "cpu"
    batch_size = 1
    columns: Mapping[str, pa.DataType] = {}

    def __init__(
        self, name: str, variant: str, function: Callable[[Picture], Picture], params: Mapping[str, Any]
    ) -> None:
        """function: (H, W, 3) uint8 RGB -> a map of that height and width, uint8."""
        self.name, self.variant, self._function = name, variant, function
        self.binary = name == "scribble"
        self.provenance: Mapping[str, Any] = {
            "parameters": params,
            "weights": {},
            "licence": "Apache-2.0",
            "commercial": True,
        }

    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 1 or 3, H, W) uint8."""
        import torch

        pictures = rgb.permute(0, 2, 3, 1).contiguous().numpy()
        maps = torch.from_numpy(np.stack([self.picture(picture, key)[0] for picture, key in zip(pictures, keys)]))
        return Maps(maps[:, None] if maps.ndim == 3 else maps.permute(0, 3, 1, 2), {})

    def picture(self, rgb: np.ndarray, key: str) -> tuple[np.ndarray, dict[str, Any]]:
        """(H, W, 3) uint8 RGB -> (H, W) or (H, W, 3) uint8. Raises AnnotatorError for another array."""
        check_picture(rgb, self.name)
        return self._function(rgb), {}


def tile(rgb: Picture, factor: int) -> Picture:
    """The picture without its details, (H, W, 3): averaged over squares of `factor` pixels, and enlarged by cubics.

    So does the tile_resample of ControlNet 1.1's own program. comfyui_controlnet_aux enlarges by pyrUp, which moves the
    map (factor - 1) / 2 pixels up and to the left: 3.5 for 8. The last row and column are repeated up to whole squares.
    """
    height, width = rgb.shape[:2]
    whole = cv2.copyMakeBorder(rgb, 0, -height % factor, 0, -width % factor, cv2.BORDER_REPLICATE)
    size = whole.shape[1], whole.shape[0]
    small = cv2.resize(whole, (size[0] // factor, size[1] // factor), interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[:height, :width])


def blur(rgb: Picture, sigma: float) -> Picture:
    """The picture out of focus, (H, W, 3)."""
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma), np.uint8)


def luminance(rgb: Picture, gamma: float) -> Picture:
    """CIELAB's lightness, (H, W), with red and blue exchanged: the reference does so, and models were trained on it."""
    return _bent(cv2.cvtColor(rgb, cv2.COLOR_BGR2LAB)[:, :, 0], gamma)


def intensity(rgb: Picture, gamma: float) -> Picture:
    """The largest of the three colours, (H, W)."""
    return _bent(rgb.max(2), gamma)


def _bent(levels: Picture, gamma: float) -> Picture:
    unit = levels.astype(np.float32) / np.float32(255)
    return (unit**gamma * np.float32(255)).clip(0, 255).astype(np.uint8)


def color(rgb: Picture) -> Picture:
    """Squares of one colour, (H, W, 3): as many as squares of 64 pixels fit, at least one along each side."""
    height, width = rgb.shape[:2]
    cells = cv2.resize(rgb, (max(1, width // CELL), max(1, height // CELL)), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def xdog(rgb: Picture, threshold: int) -> Picture:
    """Strokes where any colour is darker than around it, (H, W), 255 on 0: a difference of Gaussians."""
    levels = rgb.astype(np.float32)
    difference = cv2.GaussianBlur(levels, (0, 0), COARSE) - cv2.GaussianBlur(levels, (0, 0), FINE)
    around = (255 - difference.min(2)).clip(0, 255).astype(np.uint8)
    return np.where(2 * (255 - around.astype(np.int64)) > threshold, 255, 0).astype(np.uint8)


# What a filter's parameters are -> its name, and the function of each variant; the first is what the name alone is.
FILTERS: dict[type[BaseModel], tuple[str, dict[str, Callable[..., Picture]]]] = {
    TileParams: ("tile", {"": tile}),
    BlurParams: ("blur", {"": blur}),
    GrayParams: ("gray", {"luminance": luminance, "intensity": intensity}),
    ColorParams: ("color", {"": color}),
    ScribbleParams: ("scribble", {"xdog": xdog}),
}


def load(variant: str, params: BaseModel, *, device: str, weights: Weights) -> PictureFilter:
    """The filter whose parameters these are."""
    name, functions = FILTERS[type(params)]
    chosen, settings = variant or next(iter(functions)), params.model_dump()
    return PictureFilter(name, chosen, partial(functions[chosen], **settings), settings)
