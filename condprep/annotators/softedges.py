"""Soft edges in the styles that ControlNet 1.1 trained on, of any network that tells how likely a pixel is an edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from condprep.annotators.gridded import Gridded
from condprep.types import Maps, Seen


class SoftEdges(Gridded):
    """Edges as grey levels, one channel. Its network answers logits (B, 1, H, W)."""

    style = ""  # or "safe" or "scribble"

    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 1, H, W) uint8: soft edges 0..255; safe: 0, 127, 255; scribble: 0, 255."""
        seen = self.see(rgb, keys)
        (grey,), columns = seen.tensors, {name: [found[name] for found in seen.found] for name in self.columns}
        return Maps(scribbles(grey) if self.style == "scribble" else grey, columns)

    @torch.inference_mode()
    def see(self, rgb: Tensor, keys: Sequence[str]) -> Seen:
        """The soft edges (B, 1, H, W) uint8, safe where they are to be, and the further columns of each picture."""
        edges = self.answer(rgb).sigmoid()
        return Seen([to_grey(safe_step(edges) if self.style == "safe" else edges)], [{} for _ in keys])

    def draw(self, arrays: Sequence[np.ndarray], found: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """Soft edges (1, H, W) uint8 -> the map (H, W)."""
        edges = arrays[0][0]
        return (scribble(edges) if self.style == "scribble" else edges), found


def to_grey(probabilities: Tensor) -> Tensor:
    """0..1 (and above) -> uint8, truncated as the reference truncates."""
    return (probabilities * 255).clamp(0, 255).byte()


def safe_step(probabilities: Tensor) -> Tensor:
    """Three levels 0, 0.5 and 1 (1.5 at exactly 1): edges too coarse to smuggle the picture's texture along."""
    return (probabilities * 3).int() / 2


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
