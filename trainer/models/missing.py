"""Conditions of inpaint: where the picture is missing they are -1, which no colour is, as ControlNet 1.1 has it.

A dataset holds them black there. So has a pipeline of the trainer its conditions; a tensor that has -1 itself, as
diffusers' examples make it, stays as it is. Families that take conditions as latents have black, which is their -1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

KIND = "inpaint"
MISSING = -1.0


def with_missing(condition: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> the same, -1 where all channels are 0."""
    return torch.where((condition == 0).all(1, keepdim=True), MISSING, condition)


class _WithMissing:
    """Put before the class of a pipeline's image processor."""

    def preprocess(self, *arguments: Any, **named: Any) -> Tensor:
        prepared: Tensor = super().preprocess(*arguments, **named)  # type: ignore[misc]
        return with_missing(prepared)


def takes_missing(pipeline: Any) -> Any:
    """The same pipeline of diffusers, which prepares its conditions so."""
    processor = pipeline.control_image_processor
    kind = type(processor)
    processor.__class__ = type(kind.__name__, (_WithMissing, kind), {})
    return pipeline
