"""What annotators share whose network answers on the picture's own pixels: padding before it, cropping after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from condprep.annotators.base import BaseAnnotator
from condprep.annotators.padding import GRID, pad_to_grid
from condprep.annotators.precision import autocast
from condprep.weights.find import WeightFile
from condprep.weights.pins import pin

if TYPE_CHECKING:
    import pyarrow as pa


PLENTY = 8_000  # bytes a pixel; the hungriest of these networks, normalbae, needs less than half of it


class Gridded(BaseAnnotator):
    """A network that takes (B, 3, H, W) float32 RGB 0..255, sides multiples of `grid`, and answers (B, C, H, W)."""

    binary = False
    grid = GRID
    plenty = PLENTY

    def __init__(
        self, network: nn.Module, variant: str, *, file: WeightFile, device: str, precision: str, batch_size: int
    ) -> None:
        """batch_size: on a GPU; a CPU gains nothing from more than a few pictures at once."""
        on_cpu = torch.device(device).type == "cpu"
        # The reference computes so on a CPU, where the order of pixels changes how sums are rounded.
        self.memory_format = torch.contiguous_format if on_cpu else torch.channels_last
        self.network = network.to(device).eval().to(memory_format=self.memory_format)
        self.variant, self.device, self.precision = variant, device, precision
        self.batch_size = 2 if on_cpu else batch_size
        self.columns: Mapping[str, pa.DataType] = {}
        self.provenance: Mapping[str, Any] = {
            "parameters": {"precision": precision},
            "weights": {file.name: file.sha256},
            "licence": pin(file.name).licence,
            "commercial": pin(file.name).commercial,
        }

    def weigh(self, rgb: Tensor) -> Tensor:
        """Its answer: what is drawn of it takes less."""
        return self.answer(rgb)

    def answer(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> what the network answers of it, (B, C, H, W) float32."""
        height, width = rgb.shape[-2:]
        return self.answer_padded(rgb)[..., :height, :width]

    def answer_padded(self, rgb: Tensor) -> Tensor:
        """The same, of the padded pictures."""
        padded = pad_to_grid(rgb, self.grid).to(torch.float32, memory_format=self.memory_format)
        with autocast(self.precision, self.device):
            answer: Tensor = self.network(padded)
        return answer.float()
