"""How many bytes tensors hold: counted while something runs, also on tensors that have shapes and no bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def peak_of(run: Callable[[], object]) -> int:
    """The most bytes that tensors made in `run` hold at once."""
    counter = StorageCounter()
    with counter:
        run()
    return counter.peak


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """Among what an operation takes or gives, and in its lists."""
    found = list[Tensor]()
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(value)
    return found


class StorageCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts storages from the operation that makes them until the last tensor on them is gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}

    @property
    def alive(self) -> int:
        """Storages that somebody still has."""
        return len(self._known)

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = operation(*arguments, **(named or {}))
        if made := tensors_in((result,)):  # not where a device is asked for, as half of the time
            before = {id(tensor.untyped_storage()) for tensor in tensors_in((*arguments, *(named or {}).values()))}
            for tensor in made:
                if id(tensor.untyped_storage()) not in before:
                    self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self._known:
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            self._known[key] = finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.now -= size
        del self._known[key]
