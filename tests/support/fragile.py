"""A stand-in for a network: fails where real ones fail, and returns what can be checked."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
import torch

from condprep import Maps


class Fragile:
    """A network stand-in whose batches of more than `limit` run out of memory and that fails on dark pictures."""

    name, variant, device, batch_size, binary = "fragile", "", "cpu", 8, False
    columns: ClassVar = {"brightness": pa.float32()}
    provenance: ClassVar = {"parameters": {}, "weights": {}, "licence": "none", "commercial": True}

    def __init__(self, limit: int) -> None:
        self.limit, self.darkest = limit, 1
        self.batches: list[int] = []

    def __call__(self, rgb: torch.Tensor, keys: list[str]) -> Maps:
        self.batches.append(len(rgb))
        if len(rgb) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        means = rgb.float().mean((1, 2, 3))
        if (means < self.darkest).any():
            raise ValueError("cannot normalise a black picture")
        return Maps(rgb.float().mean(1, keepdim=True).byte(), {"brightness": means.tolist()})
