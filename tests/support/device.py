"""Where the tests of a device run: on CUDA, or with CONDPREP_TEST_DEVICE=cpu, so that no line of them runs there for the first time."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from condprep.runtime.storages import StorageCounter, peak_of

DEVICE = os.environ.get("CONDPREP_TEST_DEVICE", "cuda")
ON_CUDA = DEVICE == "cuda"

on_device = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        ON_CUDA and not torch.cuda.is_available(),
        reason="torch sees no CUDA device; CONDPREP_TEST_DEVICE=cpu runs the same on the CPU",
    ),
]


def held() -> int:
    """Bytes of the tensors that the device holds."""
    if ON_CUDA:
        return torch.cuda.memory_allocated()
    gc.collect()
    tensors = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def waits(work: Callable[[], object]) -> int:
    """How often the host waits for the device; on the CPU there is nothing to wait for."""
    watched = torch.cuda.is_available()
    torch.cuda.set_sync_debug_mode("warn") if watched else None
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default") if watched else None
    return sum("synchroniz" in str(warning.message) for warning in caught)


def peak(work: Callable[[], object]) -> int:
    """The most bytes of the device that are taken at once, with those that its allocator keeps."""
    if not ON_CUDA:
        return peak_of(work)
    forget()
    work()
    return torch.cuda.max_memory_reserved()


def forget() -> None:
    if ON_CUDA:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def memory(limit: int) -> Iterator[None]:
    """A device that has so many bytes."""
    if not ON_CUDA:
        with _Full(limit):
            yield
        return
    forget()
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        forget()


class _Full(StorageCounter):
    """Raises what a device without room raises."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage.device.type == "meta":  # it has no bytes: a prediction
            return
        super()._add(storage)
        if self.now > self.limit:
            raise torch.OutOfMemoryError(f"{self.now:,} of {self.limit:,} bytes")
