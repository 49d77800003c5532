"""Calling an annotator so that one picture cannot stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from condprep.annotators.protocol import Annotator, Filter
from condprep.errors import AnnotatorError, BuildFailed, CondprepError, Rejected
from condprep.types import Maps

if TYPE_CHECKING:
    from torch import Tensor

Result = tuple[np.ndarray, dict[str, Any]] | Rejected  # a map (H, W) or (H, W, 3) uint8 with its columns, or why not

T = TypeVar("T")
HOPELESS = 20  # pictures in a row on which an annotator fails before the run stops: then it is not the pictures


class Runner:
    """An annotator that returns a result for every picture: what fails in a batch is tried in halves, then alone."""

    def __init__(self, annotator: Annotator) -> None:
        self.annotator = annotator
        self._failures = 0

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> list[Result]:
        """(B, 3, H, W) uint8 RGB on any device, B keys -> B results. Raises BuildFailed when nothing works any more."""
        results = self._attempt(lambda: _split(_checked(self.annotator(self._moved(rgb), keys), self.annotator, rgb)))
        if not isinstance(results, Rejected):
            return results
        if len(keys) > 1:
            half = len(keys) // 2
            return self(rgb[:half], keys[:half]) + self(rgb[half:], keys[half:])
        self._count(results)
        return [results]

    def picture(self, rgb: np.ndarray, key: str) -> Result:
        """One picture (H, W, 3) uint8 RGB -> its result; a filter's without a tensor in between."""
        if not isinstance(self.annotator, Filter):
            return self(as_batch([rgb]), [key])[0]
        run = self.annotator.picture
        result = self._attempt(lambda: run(rgb, key))
        if isinstance(result, Rejected):
            self._count(result)
        return result

    def _moved(self, rgb: Tensor) -> Tensor:
        return to_device(rgb, self.annotator.device)

    def _attempt(self, work: Callable[[], T]) -> T | Rejected:
        """What `work` returns, or why it failed. Errors about more than a picture are raised."""
        try:
            result = work()
        except Rejected as rejected:
            return rejected
        except CondprepError:
            raise
        except Exception as error:
            return Rejected("annotate", f"{self.annotator.name} failed: {_short(error)}")
        self._failures = 0
        return result

    def _count(self, failure: Rejected) -> None:
        self._failures += 1
        if self._failures >= HOPELESS:
            raise BuildFailed(f"{HOPELESS} pictures in a row could not be annotated; the last one: {failure.reason}")


def fitting_batch(annotators: Iterable[Annotator], wanted: int, side: int = 512) -> int:
    """The largest of wanted, wanted / 2, wanted / 4 ... pictures of side x side px on which no annotator runs out of memory."""
    annotators = list(annotators)
    if not annotators:
        return wanted
    import torch

    while wanted > 1:
        try:
            for annotator in annotators:
                annotator(
                    torch.zeros(wanted, 3, side, side, dtype=torch.uint8, device=annotator.device), ["0"] * wanted
                )
            return wanted
        except torch.OutOfMemoryError:
            wanted //= 2
    return wanted


def to_device(rgb: Tensor, device: str) -> Tensor:
    """A copy that does not wait where the device allows it."""
    import torch

    if torch.device(device).type == "cuda" and rgb.device.type == "cpu":
        rgb = rgb.pin_memory()
    return rgb.to(device, non_blocking=True)


def as_batch(pictures: Sequence[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3) uint8 of one size -> (B, 3, H, W), channels_last: one writeable picture is a view."""
    import torch

    alone = len(pictures) == 1 and pictures[0].flags.writeable  # torch has no read-only tensors
    stacked = pictures[0][None] if alone else np.stack(pictures)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def _split(maps: Maps) -> list[Result]:
    pixels = maps.maps.permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, C)
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    rows = [{name: values[i] for name, values in maps.columns.items()} for i in range(len(pixels))]
    return list(zip(pixels, rows))


def _checked(maps: Maps, annotator: Annotator, rgb: Tensor) -> Maps:
    """Maps that keep the protocol's promise; raises AnnotatorError that names the annotator that breaks it."""
    import torch

    shape, batch = tuple(maps.maps.shape), len(rgb)
    right = shape in ((batch, 1, *rgb.shape[2:]), (batch, 3, *rgb.shape[2:])) and maps.maps.dtype == torch.uint8
    if not right or any(len(values) != batch for values in maps.columns.values()):
        lengths = {name: len(values) for name, values in maps.columns.items()}
        raise AnnotatorError(
            f"annotator {annotator.name!r} returned maps {shape} {maps.maps.dtype} and columns {lengths} for pictures "
            f"{tuple(rgb.shape)}; it must return (B, 1 or 3, H, W) uint8 and B values a column"
        )
    return maps


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else 'no message'}"
