"""A CUDA device without one: tensors that have a device, a shape and no bytes. An operation that mixes devices fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Skips the test where torch was built without CUDA."""
    if not torch.backends.cuda.is_built():
        pytest.skip(f"torch {torch.__version__} is built without CUDA")
    with FakeTensorMode():
        yield


def onto_cuda(module: nn.Module) -> Any:
    """The module, its tensors without bytes on the device; to be called within `fake_cuda`."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                there = torch.empty(weight.shape, dtype=weight.dtype, device="cuda")
                part._parameters[name] = nn.Parameter(there, weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return module
