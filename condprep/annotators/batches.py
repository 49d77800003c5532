"""Pictures of one shape, together on a device: what every annotator is called with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from condprep.annotators.protocol import Annotator
from condprep.runtime.concurrency import group

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
REFERENCE_SIDE = 512  # an annotator's batch_size is for square pictures of this side
PENDING_BATCHES = 16  # full batches' worth of pictures that may come while one waits for others of its shape


def by_shape(
    items: Iterable[T],
    pixels: Callable[[T], np.ndarray | None],
    batch_size: int,
    size: Callable[[T], int] | None = None,
    pending: int | None = None,
) -> Iterator[list[T]]:
    """Items whose pictures have the same shape, as many as have the pixels of `batch_size` pictures of 512 x 512.

    pixels: an item's picture, (H, W, 3); of None the item leaves at once and alone. size, pending: how much may come
    while an item waits; default: pixels, of PENDING_BATCHES batches.
    """

    def shape(item: T) -> tuple[int, ...] | None:
        rgb = pixels(item)
        return None if rgb is None else rgb.shape

    def area(item: T) -> int:
        rgb = pixels(item)
        return 0 if rgb is None else rgb.size // 3

    full = batch_size * REFERENCE_SIDE**2
    return group(items, shape, area, full, PENDING_BATCHES * full if pending is None else pending, size)


def as_batch(pictures: Sequence[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3) uint8 of one size -> (B, 3, H, W), channels_last: one writeable picture is a view."""
    import torch

    alone = len(pictures) == 1 and pictures[0].flags.writeable  # torch has no read-only tensors
    stacked = pictures[0][None] if alone else np.stack(pictures)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def to_device(rgb: Tensor, device: str) -> Tensor:
    """A copy that does not wait where the device allows it."""
    import torch

    if torch.device(device).type == "cuda" and rgb.device.type == "cpu":
        rgb = rgb.pin_memory()
    return rgb.to(device, non_blocking=True)


def fitting_batch(annotators: Sequence[Annotator], wanted: int, side: int = REFERENCE_SIDE) -> int:
    """The largest of wanted, wanted / 2, wanted / 4 ... pictures of side x side px on which no annotator runs out of memory."""
    if not annotators:
        return wanted
    import torch

    while wanted > 1:
        try:
            for annotator in annotators:
                blank = torch.zeros(wanted, 3, side, side, dtype=torch.uint8, device=annotator.device)
                annotator(blank, ["0"] * wanted)
            return wanted
        except torch.OutOfMemoryError:
            wanted //= 2
    return wanted
