"""Depth and normal maps, batched: MiDaS at parity with controlnet_aux, other depth models through transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from condprep.annotators.base import BaseAnnotator
from condprep.annotators.depth.models import DepthModel, TransformersDepth, load_midas
from condprep.annotators.normals.estimated import Axes, EstimatedNormal
from condprep.annotators.normals.marigold import DiffusedNormal, load_diffused
from condprep.annotators.pixel_columns import png
from condprep.annotators.precision import NetworkParams, resolve_precision
from condprep.annotators.pretrained import Pretrained
from condprep.errors import AnnotatorError
from condprep.types import Maps, Seen
from condprep.weights.find import Weights

NORMAL_Z = 2 * np.pi  # the slope's scale against the raw depth, and
BACKGROUND = 0.1  # the depth (0..1) below which a normal faces the viewer: controlnet_aux's defaults

RAW = pa.struct({"png": pa.binary(), "low": pa.float32(), "high": pa.float32()})


class NormalParams(NetworkParams):
    axes: Axes = Field(
        "auto",
        description="where x, y and z of a model of transformers point, such as right-up-viewer; auto where that is known",
    )


class DepthParams(NetworkParams):
    keep_raw: bool = Field(False, description="also keep the depth in 65,536 levels, in the column depth_raw")


class Depth(BaseAnnotator):
    """Relative depth, near is white, stretched to 0..255 for each picture. One channel."""

    name = "depth"
    binary = False

    def __init__(self, model: DepthModel, variant: str, *, device: str, precision: str, keep_raw: bool = False) -> None:
        self.model, self.variant, self.device, self.keep_raw = model, variant, device, keep_raw
        self.batch_size = 2 if device == "cpu" else 16
        self.columns: Mapping[str, pa.DataType] = {"depth_raw": RAW} if keep_raw else {}
        self.provenance: Mapping[str, Any] = {
            "parameters": {"precision": precision, "keep_raw": keep_raw},
            **model.provenance,
        }

    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 1, H, W) uint8; one depth everywhere gives 0 everywhere.

        `depth_raw`: a 16-bit grey PNG; the model's inverse depth is low + value / 65535 * (high - low). In bf16 a map
        differs from fp32's by less than 0.25 grey levels on average, and by at most 2 in 99.9 % of its pixels.
        """
        maps, *raw = self.see(rgb, keys).tensors
        values = [raw_value(*one) for one in zip(*(part.cpu().numpy() for part in raw))]
        return Maps(maps, {"depth_raw": values} if self.keep_raw else {})

    @torch.inference_mode()
    def see(self, rgb: Tensor, keys: Sequence[str]) -> Seen:
        """The maps (B, 1, H, W) uint8; with keep_raw the arguments of `raw_value`, too, of B pictures each."""
        depth = self.model(rgb)
        maps = (stretch(depth) * 255).byte()
        return Seen([maps, *raw_levels(depth)] if self.keep_raw else [maps], [None] * len(keys))

    @property
    def plenty(self) -> int:
        return self.model.plenty

    def weigh(self, rgb: Tensor) -> Tensor:
        """The map."""
        return (stretch(self.model.compute(rgb)) * 255).byte()

    def draw(self, arrays: Sequence[np.ndarray], found: None) -> tuple[np.ndarray, dict[str, Any]]:
        """Of one picture: its map (1, H, W) uint8 -> (H, W), and the column."""
        maps, *raw = arrays
        return maps[0], {"depth_raw": raw_value(*raw)} if self.keep_raw else {}


class Normal(BaseAnnotator):
    """Surface normals from the slope of MiDaS' depth, from the same pass of the network as the depth map."""

    name = "normal"
    binary = False

    def __init__(self, model: DepthModel, *, device: str, precision: str) -> None:
        self.model, self.variant, self.device = model, "midas", device
        self.batch_size = 2 if device == "cpu" else 16
        self.columns: Mapping[str, pa.DataType] = {}
        self.provenance: Mapping[str, Any] = {"parameters": {"precision": precision}, **model.provenance}

    @torch.inference_mode()
    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 3, H, W) uint8; red is z (towards the viewer), green y (down), blue x (right).

        Each is 127.5 + 127.5 n, truncated; the order is that of controlnet_aux.
        """
        return Maps(normals(self.model(rgb)))

    @property
    def plenty(self) -> int:
        return self.model.plenty

    def weigh(self, rgb: Tensor) -> Tensor:
        """The map."""
        return normals(self.model.compute(rgb))


def stretch(depth: Tensor) -> Tensor:
    """(B, 1, H, W) -> 0..1 for each picture; a flat one is 0 (the reference divides 0 by 0)."""
    depth = depth - depth.amin((2, 3), keepdim=True)
    high = depth.amax((2, 3), keepdim=True)
    return depth / torch.where(high > 0, high, 1)


def normals(depth: Tensor) -> Tensor:
    """(B, 1, H, W) float32 -> (B, 3, H, W) uint8: z, y, x of the unit normal of the depth taken as a height."""
    flat = stretch(depth) < BACKGROUND
    dx, dy = (slope.masked_fill(flat, 0) for slope in sobel(depth))
    normal = torch.cat((torch.full_like(dx, NORMAL_Z), dy, dx), 1)
    unit = normal / normal.square().sum(1, keepdim=True).sqrt()
    return (unit * 127.5 + 127.5).clamp(0, 255).byte()


def sobel(depth: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1, H, W) -> 3 x 3 Sobel slopes along x and y, (B, 1, H, W) each, the border mirrored without its edge."""
    rows, columns = (_mirrored(size, depth.device) for size in depth.shape[-2:])
    padded = depth.index_select(-2, rows).index_select(-1, columns)
    along_x = padded[..., 2:] - padded[..., :-2]
    along_y = padded[..., 2:, :] - padded[..., :-2, :]
    dx = along_x[..., :-2, :] + 2 * along_x[..., 1:-1, :] + along_x[..., 2:, :]
    dy = along_y[..., :-2] + 2 * along_y[..., 1:-1] + along_y[..., 2:]
    return dx, dy


def _mirrored(size: int, device: torch.device) -> Tensor:
    """1, 0, 1 ... size - 1, size - 2 (a single pixel repeats itself)."""
    last = size - 1
    return (last - (last - torch.arange(-1, size + 1, device=device).abs()).abs()).clamp_(min=0)


def raw_levels(depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 1, H, W) -> levels (B, H, W) int16, which are 0..65535 less 32768 (torch computes little in uint16); lowest and
    highest depth (B,)."""
    levels = (stretch(depth) * 65535).round()[:, 0] - 32768
    return levels.to(torch.int16), depth.amin((1, 2, 3)), depth.amax((1, 2, 3))


def raw_value(levels: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """What `raw_levels` returns for one picture -> a value of the type RAW."""
    return {"png": png(levels.view(np.uint16) ^ 0x8000), "low": float(low), "high": float(high)}


def load(variant: str, params: DepthParams, *, device: str, weights: Weights) -> Depth:
    """`depth` is MiDaS; `depth:NAME` a depth model of transformers, by Hub id or local folder. Raises WeightsError."""
    model: DepthModel
    if variant in ("", "midas"):
        variant, model = "midas", load_midas(weights, device, resolve_precision(params.precision, device, "depth"))
    else:
        model = TransformersDepth(Pretrained.of("depth", variant, weights), device=device, precision=params.precision)
    return Depth(model, variant, device=device, precision=model.precision, keep_raw=params.keep_raw)


def load_normal(
    variant: str, params: NormalParams, *, device: str, weights: Weights
) -> Normal | DiffusedNormal | EstimatedNormal:
    """`normal` and `normal:midas` are the same; `normal:NAME` is a model of diffusers or transformers.

    Raises WeightsError, and AnnotatorError for axes where they are known, or for none where they are not.
    """
    precision = resolve_precision(params.precision, device, "normal")
    named = Pretrained.of("normal", variant or "midas", weights)
    if variant not in ("", "midas") and not named.has("model_index.json"):
        return EstimatedNormal(named, device=device, precision=precision, axes=params.axes)
    if params.axes != "auto":
        raise AnnotatorError(f"normal.axes has no meaning for {named}, whose axes are known; leave it out")
    if variant not in ("", "midas"):
        return load_diffused(named, device=device, precision=params.precision)
    return Normal(load_midas(weights, device, precision), device=device, precision=precision)
