"""Calling an annotator so that one picture cannot stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from condprep.annotators.batches import as_batch, to_device
from condprep.annotators.protocol import Annotator, Drawer, Filter
from condprep.annotators.transfer import Download
from condprep.errors import AnnotatorError, BuildFailed, CondprepError, Rejected
from condprep.types import Maps, Seen

if TYPE_CHECKING:
    from torch import Tensor

Drawn = tuple[np.ndarray, dict[str, Any]]  # a map (H, W) or (H, W, 3) uint8, and the row's further columns
Result = Drawn | Rejected  # or why there is none

HOPELESS = 20  # pictures in a row on which an annotator fails before the run stops: then it is not the pictures


class Runner:
    """An annotator that returns a result for every picture: what fails in a batch is tried in halves, then alone."""

    def __init__(self, annotator: Annotator) -> None:
        self.annotator = annotator
        # One picture (H, W, 3) uint8 RGB and its key -> what is drawn of it, a filter's without a tensor in between.
        # To be called `with guarded()`: it is the annotator's own function, so that nothing lies between a row and it.
        self.draw: Callable[[np.ndarray, str], Drawn] = (
            annotator.picture if isinstance(annotator, Filter) else self._draw_alone
        )
        self._failures = 0

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> list[Result]:
        """(B, 3, H, W) uint8 RGB on any device, B keys -> B results. Raises BuildFailed when nothing works any more."""
        return [seen if isinstance(seen, Rejected) else self.finish(seen) for seen in self.see(rgb, keys)]

    def see(self, rgb: Tensor, keys: Sequence[str]) -> list[Undrawn | Rejected]:
        """The part of it for which the device is needed; `finish`, in any thread, does the rest."""
        try:
            with self.guarded(len(keys)):
                return [*self._see(to_device(rgb, self.annotator.device), keys)]
        except Rejected as rejected:
            if len(keys) == 1:
                return [rejected]
        half = len(keys) // 2
        return self.see(rgb[:half], keys[:half]) + self.see(rgb[half:], keys[half:])

    def finish(self, undrawn: Undrawn) -> Result:
        """Draw one picture's map, once it was seen."""
        try:
            undrawn.wait()
            with self.guarded():
                return self._draw(undrawn)
        except Rejected as rejected:
            return rejected

    @contextmanager
    def guarded(self, pictures: int = 1) -> Iterator[None]:
        """What the annotator raises inside is raised as Rejected: it failed on these pictures.

        Errors about more than a picture pass, and too many pictures in a row on which it fails alone are BuildFailed.
        """
        try:
            yield
        except Rejected as rejected:
            failure = rejected
        except CondprepError:
            raise
        except SystemExit as error:  # code of others must not end a build as if it were done
            raise BuildFailed(f"{self.annotator.name} wanted to end the program (SystemExit {error.code})") from error
        except Exception as error:
            reason = f"{self.annotator.name} failed: {_short(error)}"
            failure = Rejected("annotate", reason, code="annotator-failed")
        else:
            self._failures = 0
            return
        self._failures += pictures == 1
        if self._failures >= HOPELESS:
            raise BuildFailed(f"{HOPELESS} pictures in a row could not be annotated; the last one: {failure.reason}")
        raise failure

    def _draw_alone(self, rgb: np.ndarray, key: str) -> Drawn:
        (undrawn,) = self._see(to_device(as_batch([rgb]), self.annotator.device), [key])
        undrawn.wait()
        return self._draw(undrawn)

    def _draw(self, undrawn: Undrawn) -> Drawn:
        pixels, columns = undrawn.draw()
        if pixels.shape not in (undrawn.size, (*undrawn.size, 3)) or pixels.dtype != np.uint8:
            raise AnnotatorError(
                f"annotator {self.annotator.name!r} drew a map {pixels.shape} {pixels.dtype} for a picture {undrawn.size}; "
                "it must draw (H, W) or (H, W, 3) uint8"
            )
        return pixels, columns

    def _see(self, rgb: Tensor, keys: Sequence[str]) -> list[Undrawn]:
        draw: Callable[[Sequence[np.ndarray], Any], Drawn] = _as_it_is
        if isinstance(self.annotator, Drawer):
            seen, draw = self.annotator.see(rgb, keys), self.annotator.draw
            if any(len(part) != len(keys) for part in (*seen.tensors, seen.found)):
                raise AnnotatorError(
                    f"annotator {self.annotator.name!r} saw {[len(part) for part in (*seen.tensors, seen.found)]} things in "
                    f"{len(keys)} pictures; every tensor and `found` must have one for each"
                )
        else:
            maps = _checked(self.annotator(rgb, keys), self.annotator, rgb)
            rows = [{name: values[i] for name, values in maps.columns.items()} for i in range(len(keys))]
            seen = Seen([maps.maps], rows)
        download = Download(seen.tensors)
        size = (rgb.shape[2], rgb.shape[3])
        return [Undrawn(download, number, found, draw, size) for number, found in enumerate(seen.found)]


@dataclass(frozen=True, slots=True)
class Undrawn:
    """What an annotator has seen in one picture."""

    download: Download
    number: int  # of the picture in its batch
    found: Any
    how: Callable[[Sequence[np.ndarray], Any], Drawn]
    size: tuple[int, int]  # (height, width) of the picture

    def wait(self) -> None:
        """Until it is on the host. Raises what went wrong on the device."""
        self.download.wait()

    def draw(self) -> Drawn:
        return self.how(self.download.arrays(self.number), self.found)


def _as_it_is(arrays: Sequence[np.ndarray], columns: dict[str, Any]) -> Drawn:
    """A map (C, H, W) that was drawn on the device."""
    pixels = arrays[0].transpose(1, 2, 0)
    return (pixels[..., 0] if pixels.shape[-1] == 1 else pixels), columns


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
