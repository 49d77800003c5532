"""torch's own threads on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from condprep.runtime.process import shared


@shared
@contextmanager
def one_torch_thread() -> Iterator[None]:
    """torch in one thread a call, while its networks are on another device: what is left to the CPU are small copies.

    Otherwise each of them wakes a pool, whose threads turn in circles for a while and take the cores from the workers: on two
    cores a device of 600 pictures/s was kept busy 90 % of the time, and is 97 % (`python -m bench schedule --annotators 1`).
    The host program's setting is put back. It holds in threads that begin within.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
