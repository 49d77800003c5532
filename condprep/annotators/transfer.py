"""Batches on their way to a device and back, so that neither the host nor the device waits for a copy.

On CUDA they go through pinned memory and on streams of their own, and events say when they are there. Elsewhere they are there
at once: on the CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from condprep.annotators.batches import as_batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Upload:
    """Pictures (H, W, 3) uint8 of one size that become a batch (B, 3, H, W), channels_last, on a device.

    It may be begun in another thread than the one that computes.
    """

    def __init__(self, pictures: Sequence[np.ndarray], device: str) -> None:
        import torch

        self._there: torch.cuda.Event | None = None
        if torch.device(device).type != "cuda":
            self._rgb = as_batch(pictures).to(device)
            return
        pinned = torch.empty((len(pictures), *pictures[0].shape), dtype=torch.uint8, pin_memory=True)
        np.stack(pictures, out=pinned.numpy())
        with torch.cuda.stream(_streams(device).into):
            # torch keeps the pinned memory until the copy is done
            self._rgb = pinned.to(device, non_blocking=True).permute(0, 3, 1, 2)
            self._there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._there.record()

    def batch(self) -> Tensor:
        """For what is computed next in this thread; the device waits for the copy, the thread does not."""
        import torch

        if self._there:
            stream = torch.cuda.current_stream(self._rgb.device)
            stream.wait_event(self._there)
            self._rgb.record_stream(stream)  # or its memory could be given away while the stream still reads it
        return self._rgb


class Download:
    """Tensors that were just computed in this thread, on their way to the host."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        import torch

        self._there: torch.cuda.Event | None = None
        on_cuda = next((tensor.device for tensor in tensors if tensor.device.type == "cuda"), None)
        if on_cuda is None:
            self._hosts = [tensor.cpu().numpy() for tensor in tensors]
            return
        stream = _streams(str(on_cuda)).out
        stream.wait_stream(torch.cuda.current_stream(on_cuda))
        with torch.cuda.stream(stream):
            self._hosts = [_pinned(tensor, stream) for tensor in tensors]
            # who waits for it leaves the core to others
            self._there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._there.record()

    def wait(self) -> None:
        """Until they are there."""
        if self._there:
            self._there.synchronize()

    def arrays(self, picture: int) -> list[np.ndarray]:
        """What the tensors have of one picture; to be asked for after `wait`."""
        return [host[picture] for host in self._hosts]


def _pinned(tensor: Tensor, stream: torch.cuda.Stream) -> np.ndarray:
    """What will be on the host when the stream has come so far."""
    import torch

    if tensor.device.type != "cuda":
        return tensor.cpu().numpy()
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    tensor.record_stream(stream)
    return host.numpy()


@dataclass(frozen=True)
class Streams:
    """Of a device, beside the one that computes: copies of both directions and computing go on at once."""

    into: torch.cuda.Stream
    out: torch.cuda.Stream


@lru_cache
def _streams(device: str) -> Streams:
    import torch

    return Streams(torch.cuda.Stream(device), torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
