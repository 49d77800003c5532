"""Canny edges of the three colour channels, byte for byte those of controlnet_aux's CannyDetector at equal size."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from condprep.annotators.base import BaseAnnotator, check_picture
from condprep.errors import AnnotatorError
from condprep.types import Maps

if TYPE_CHECKING:
    from torch import Tensor

    from condprep.weights.find import Weights

LOW, HIGH = 100, 200  # controlnet_aux's defaults


class CannyParams(BaseModel):
    """Thresholds of the hysteresis on the L1 gradient, 0..2040 (the most that a 3 x 3 Sobel pair of uint8 can reach)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: int | None = Field(None, ge=0, le=2040, description=f"lower threshold (default {LOW})")
    high: int | None = Field(None, ge=0, le=2040, description=f"upper threshold (default {HIGH})")

    @model_validator(mode="after")
    def _ordered(self) -> CannyParams:
        low, high = self.thresholds
        if low > high:
            raise ValueError(f"low = {low} is above high = {high}")
        return self

    @property
    def thresholds(self) -> tuple[int, int]:
        return (LOW if self.low is None else self.low), (HIGH if self.high is None else self.high)


class Canny(BaseAnnotator):
    """Edges as 255 on 0, one channel. Runs on the CPU (OpenCV), a picture at a time in the caller's thread."""

    name = "canny"
    device = "cpu"
    batch_size = 1
    binary = True

    def __init__(self, thresholds: tuple[int, int] | None) -> None:
        """thresholds: (low, high) for every picture; None: drawn per picture and recorded as `canny_thresholds`."""
        self.thresholds = thresholds
        self.variant = "" if thresholds else "random"
        self.columns: Mapping[str, pa.DataType] = {} if thresholds else {"canny_thresholds": pa.list_(pa.int32())}
        parameters = dict(zip(("low", "high"), thresholds)) if thresholds else {"low": "random", "high": "random"}
        self.provenance: Mapping[str, Any] = {
            "parameters": parameters,
            "weights": {},
            "licence": "Apache-2.0",
            "commercial": True,
        }

    def annotate(self, rgb: Tensor, keys: Sequence[str]) -> Maps:
        """(B, 3, H, W) uint8 RGB -> (B, 1, H, W) uint8, 0 or 255."""
        import torch

        pictures = rgb.permute(0, 2, 3, 1).contiguous().numpy()  # (B, H, W, 3)
        done = [self.picture(picture, key) for picture, key in zip(pictures, keys, strict=True)]
        columns = {name: [further[name] for _, further in done] for name in self.columns}
        return Maps(torch.from_numpy(np.stack([edges for edges, _ in done]))[:, None], columns)

    def picture(self, rgb: np.ndarray, key: str) -> tuple[np.ndarray, dict[str, Any]]:
        """(H, W, 3) uint8 RGB -> (H, W) uint8, 0 or 255. Raises AnnotatorError for another array."""
        check_picture(rgb, self.name)  # cv2.split would leave the scratch buffers as they are: the picture before
        thresholds = self.thresholds or random_thresholds(key)
        further = {} if self.thresholds else {"canny_thresholds": list(thresholds)}
        return canny(rgb, *thresholds), further


class _Scratch(threading.local):
    """Buffers of one thread for pictures of one size: fresh ones would cost more than the arithmetic (page faults)."""

    shape: tuple[int, int] = (0, 0)

    def fit(self, shape: tuple[int, int]) -> _Scratch:
        if shape != self.shape:
            self.shape = shape
            self.channels = [np.empty(shape, np.uint8) for _ in range(3)]
            self.gradients = np.empty((2, 2, *shape), np.int16)  # the largest so far, this channel's; (dx, dy)
            self.norms = np.empty((2, *shape), np.int16)  # |dx| + |dy| of both
            self.abs_dy = np.empty(shape, np.int16)
            self.larger = np.empty(shape, np.uint8)
        return self


_scratch = _Scratch()


def canny(rgb: np.ndarray, low: int, high: int) -> np.ndarray:
    """`cv2.Canny(rgb, low, high)`: the same bytes, 2.5 times as fast. (H, W, 3) uint8 -> (H, W) uint8, 0 or 255.

    OpenCV takes for each pixel the gradient of the channel where it is largest (the first of equals) in a scalar loop,
    which is most of its time. Here the channels are merged by vector operations before the one-channel detector runs.
    """
    height, width = rgb.shape[:2]
    if height * width > 1 << 22:
        return np.asarray(cv2.Canny(rgb, low, high))  # large pictures are rare, and their buffers would stay
    s = _scratch.fit((height, width))
    cv2.split(rgb, s.channels)
    (best_x, best_y), best = s.gradients[0], s.norms[0]
    for number, channel in enumerate(s.channels):
        (dx, dy), norm = s.gradients[min(number, 1)], s.norms[min(number, 1)]
        cv2.spatialGradient(channel, dx, dy, borderType=cv2.BORDER_REPLICATE)
        np.abs(dx, out=norm)
        norm += np.abs(dy, out=s.abs_dy)
        if number:
            cv2.compare(norm, best, cv2.CMP_GT, s.larger)
            cv2.copyTo(dx, s.larger, best_x)
            cv2.copyTo(dy, s.larger, best_y)
            cv2.max(best, norm, best)
    return np.asarray(cv2.Canny(best_x, best_y, low, high))


def random_thresholds(key: str) -> tuple[int, int]:
    """(low, high), 1 <= low <= high <= 255, the same for the same key on every machine.

    The ControlNet paper says "random thresholds" without their distribution; both are drawn evenly from the range of
    ControlNet 1.1's own sliders, and sorted.
    """
    digest = sha256(f"canny {key}".encode()).digest()
    low, high = sorted(1 + int.from_bytes(digest[i : i + 4]) % 255 for i in (0, 4))
    return low, high


def load(variant: str, params: CannyParams, *, device: str, weights: Weights) -> Canny:
    """`canny` or `canny:random`. Raises AnnotatorError for thresholds given to the variant that draws them."""
    if variant != "random":
        return Canny(params.thresholds)
    if params.model_fields_set:
        raise AnnotatorError("canny:random draws low and high for each picture; leave them out, or use plain canny")
    return Canny(None)
