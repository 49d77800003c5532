"""Random weights of networks with a hundred million of them, without drawing each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

PERIOD = 65537  # a prime: no row of a matrix is another one
LARGE = 1 << 14  # numbers; of fewer each is drawn


@contextmanager
def recurring() -> Iterator[None]:
    """`uniform_` and `normal_` fill large tensors with numbers that are drawn once, over and over, no tensor as another one: what
    is not read from a file, but left as it was drawn, still shows."""
    tensors, generator = count(1), torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        for name, drawn in (("uniform_", torch.rand), ("normal_", torch.randn)):
            row = drawn(PERIOD, generator=generator)
            patch.setattr(Tensor, name, _filling(getattr(Tensor, name), row, tensors))
        yield


def _filling(draw: Callable[..., Tensor], row: Tensor, tensors: Iterator[int]) -> Callable[..., Tensor]:
    """draw(tensor, low, high) of [0, 1), or draw(tensor, mean, deviation) of the normal distribution."""
    span = draw.__name__ == "uniform_"

    def fill(tensor: Tensor, first: float = 0.0, second: float = 1.0, **others: Any) -> Tensor:
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu" and tensor.is_contiguous()
        if not plain or tensor.numel() < LARGE or tensor.dtype != torch.float32 or any(others.values()):
            return draw(tensor, first, second, **others)
        flat, scale = tensor.detach().view(-1), second - first if span else second
        mine = row.roll(next(tensors) * 7919).mul_(scale).add_(first)
        whole = len(flat) - len(flat) % PERIOD
        flat[:whole].view(-1, PERIOD).copy_(mine)
        flat[whole:] = mine[: len(flat) - whole]
        return tensor

    return fill
