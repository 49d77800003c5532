"""torch's own threads on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from condprep.runtime.process import shared


@shared
@contextmanager
def one_torch_thread() -> Iterator[None]:
    """torch in one thread a call, while its networks are on another device: what is left to the CPU are small copies.

    Otherwise each of them wakes a pool, whose threads turn in circles for a while and take the cores from the workers: with
    two cores and a device that is busy for 46 ms a batch the next batch came after 5 ms, and now after 1 ms. The host
    program's setting is put back. It holds in threads that begin within.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
