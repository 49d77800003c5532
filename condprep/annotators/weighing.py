"""Bytes that a network needs, counted on tensors that have a shape and no numbers: `memory` asks for it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from condprep.annotators.protocol import Weighed

_PACKETS = (torch.ops.aten.conv2d, torch.ops.aten.conv_transpose2d, torch.ops.aten.convolution)
CONVOLUTIONS = {getattr(packet, name) for packet in _PACKETS for name in packet.overloads()}  # type: ignore[no-untyped-call]


def needed(annotator: Weighed, height: int, width: int) -> int:
    """Bytes beside the weights that are alive at once while the network looks at one picture of that size.

    What depends on the numbers in a picture, as who is in it, is not known from its shape: counting ends there.
    """
    counting = Counting()
    with FakeTensorMode(allow_non_fake_inputs=True), counting, torch.inference_mode():
        try:
            rgb = torch.empty(1, height, width, 3, dtype=torch.uint8, device=annotator.device).permute(0, 3, 1, 2)
            annotator.weigh(rgb)
        except (
            Exception
        ):  # a DataDependentOutputException, and whatever code of others makes of a tensor without numbers
            pass
    return counting.most


def twin(network: Any, rgb: Any) -> Any:
    """A copy of a network without its numbers, for `rgb` that has none: those of others keep tensors from call to call."""
    with FakeCopyMode(rgb.fake_mode):
        return deepcopy(network)


def _reordered(x: Tensor, out: Tensor) -> int:
    """Bytes of the copies that a convolution works on where its picture's colours do not lie together."""
    there = x.ndim < 4 or x.is_contiguous(memory_format=torch.channels_last)
    return 0 if there else x.nbytes + out.nbytes


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all storages that are made inside and are still alive. most: of them at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._alive: dict[int, int] = {}  # bytes of each storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                self._add(made)
        if func in CONVOLUTIONS and isinstance(out, Tensor):
            self.most = max(self.most, self._now + _reordered(args[0], out))
        return out

    def _add(self, made: Tensor) -> None:
        storage = made.untyped_storage()
        name = storage._cdata
        if name not in self._alive:
            self._alive[name] = storage.nbytes()
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
            finalize(storage, self._forget, name)

    def _forget(self, name: int) -> None:
        self._now -= self._alive.pop(name)
