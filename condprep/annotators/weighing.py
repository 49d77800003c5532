"""Bytes that a network needs, counted on tensors that have a shape and no numbers: `memory` asks for it."""

from __future__ import annotations

import functools
import gc
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode
from torch.nn import Parameter

from condprep.annotators.protocol import Weighed
from condprep.errors import AnnotatorError
from condprep.runtime.fork import Lock
from condprep.runtime.storages import StorageCounter

logger = logging.getLogger(__name__)

_PACKETS = (torch.ops.aten.conv2d, torch.ops.aten.conv_transpose2d, torch.ops.aten.convolution)
CONVOLUTIONS = {getattr(packet, name) for packet in _PACKETS for name in packet.overloads()}  # type: ignore[no-untyped-call]
TRANSPOSED = {getattr(_PACKETS[1], name) for name in _PACKETS[1].overloads()}  # type: ignore[no-untyped-call]
DEPTH = 4  # of what a function remembers: its table, the entry, a tuple and what is in that

_one_at_a_time = Lock()  # whether something is compiled is a state of the process, which two threads would leave wrong


def needed(annotator: Weighed, height: int, width: int) -> int:
    """Bytes beside the weights that are alive at once while the network looks at one picture of that size.

    What depends on the numbers in a picture, as who is in it, is not known from its shape: counting ends there. Raises
    AnnotatorError where something keeps a tensor without numbers, which it might give to the pictures that follow.
    """
    counting = Counting()
    with _one_at_a_time:
        _count(counting, annotator, height, width)
    for things in (tuple, gc.get_objects, functools.partial(_reachable, sys.modules, annotator)):
        if counting.alive:
            _forget(things())
            gc.collect()
    if counting.alive:
        raise AnnotatorError(
            f"{annotator.name} keeps {counting.alive} tensor(s) without numbers of a count of its memory: its maps would be wrong; `weigh` must "
            "keep nothing of what it computes"
        )
    return counting.peak


def _count(counting: Counting, annotator: Weighed, height: int, width: int) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), counting, _nothing_remembered(), torch.inference_mode():
        try:
            rgb = torch.empty(1, height, width, 3, dtype=torch.uint8, device=annotator.device).permute(0, 3, 1, 2)
            annotator.weigh(rgb)
        except Exception as error:  # DataDependentOutputException, and whatever code of others makes of such a tensor
            logger.info(
                "%s: what %d x %d px need was counted up to %.60r", annotator.name, width, height, str(error).strip()
            )


def _forget(things: Iterable[object]) -> None:
    """What functions remember of tensors without numbers, whosever they are: it is made again where it is wanted."""
    for one in things:
        if type(one) is functools._lru_cache_wrapper and _holds(one, DEPTH):
            one.cache_clear()


def _reachable(*begin: object) -> Iterator[object]:
    """All objects that these lead to. What somebody has frozen (`gc.freeze`) is not among `gc.get_objects`, but here."""
    seen, following = set[int](), list(begin)
    while following:
        found = gc.get_referents(*following)
        following = [
            one for one in {id(one): one for one in found if gc.is_tracked(one)}.values() if id(one) not in seen
        ]
        seen.update(map(id, following))
        yield from following


def _holds(thing: object, depth: int) -> bool:
    """Whether a tensor without numbers is in it, or in what it refers to."""
    if isinstance(thing, FakeTensor):
        return True
    inside = gc.get_referents(thing) if depth and not isinstance(thing, FunctionType | ModuleType | type) else ()
    return any(_holds(one, depth - 1) for one in inside)


@contextmanager
def _nothing_remembered() -> Iterator[None]:
    """Functions of transformers and diffusers that keep what they made for a size would give it to the pictures that follow; they
    do not while something is compiled, and torch's exporter, which runs them on such tensors, too, says so in this way."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def twin(network: Any, rgb: Any) -> Any:
    """A copy of a network without its numbers, for `rgb` that has none: those of others keep tensors from call to call."""
    with FakeCopyMode(rgb.fake_mode):
        weights = [*network.parameters()]
        plain = all(type(one) is Parameter and one.is_contiguous() for one in weights)
        return deepcopy(network, {id(one): _bare(one) for one in weights} if plain else None)


def _bare(weight: Parameter) -> Parameter:
    """What copying a weight makes, two of its size and one that stays, without a look at the original, with which half of the time went."""
    _, empty = (torch.empty(weight.shape, dtype=weight.dtype, device=weight.device) for _ in range(2))
    return Parameter(empty, weight.requires_grad)


def _copies(operation: Any, x: Tensor, weight: Tensor, out: Tensor) -> int:
    """Bytes of what a convolution copies where its picture's colours do not lie together: that, its weights, what it makes; a
    transposed one also the picture with a border."""
    if x.ndim < 4 or x.is_contiguous(memory_format=torch.channels_last):
        return 0
    return x.nbytes * (2 if operation in TRANSPOSED else 1) + weight.nbytes + out.nbytes


class Counting(StorageCounter):  # type: ignore[no-untyped-call]
    """With the copies of convolutions."""

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        out = super().__torch_dispatch__(operation, types, arguments, named)
        if operation in CONVOLUTIONS and isinstance(out, Tensor):
            self.peak = max(self.peak, self.now + _copies(operation, arguments[0], arguments[1], out))
        return out
