"""Calling an annotator so that one picture cannot stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from condprep.annotators.batches import as_batch, to_device
from condprep.annotators.failures import Sleep, as_program_fault, is_about_more, judge
from condprep.annotators.memory import Allowance
from condprep.annotators.protocol import Annotator, Drawer, Filter
from condprep.annotators.transfer import Download
from condprep.errors import AnnotatorError, Rejected
from condprep.runtime.fork import Lock
from condprep.runtime.retry import pause
from condprep.types import Maps, Seen

if TYPE_CHECKING:
    from torch import Tensor

Drawn = tuple[np.ndarray, dict[str, Any]]  # a map (H, W) or (H, W, 3) uint8, and the row's further columns
Result = Drawn | Rejected  # or why there is none
T = TypeVar("T")

CONTROL = 4_000_000  # pixels that the control picture may have


class Runner:
    """An annotator that returns a result for every picture: what fails in a batch is tried in halves, then alone."""

    def __init__(self, annotator: Annotator, sleep: Sleep = pause, allowance: Allowance | None = None) -> None:
        """sleep: ends a pause between two attempts early where the run is being stopped. allowance: of memory; default: this device's."""
        self.annotator, self._sleep, self._allowance = annotator, sleep, allowance or Allowance(annotator)
        # One picture (H, W, 3) uint8 RGB and its key -> what is drawn of it, a filter's without a tensor in between.
        # It is the annotator's own function, so that nothing lies between a row and it; `redraw` tells what it means
        # when it raises.
        self.draw: Callable[[np.ndarray, str], Drawn] = (
            annotator.picture if isinstance(annotator, Filter) else self._draw_alone
        )
        self._control: tuple[np.ndarray, str] | None = None  # the first picture on which the annotator worked
        self._one = Lock()  # a control is drawn in the thread of whoever needs it

    def __call__(self, rgb: Tensor, keys: Sequence[str]) -> list[Result]:
        """(B, 3, H, W) uint8 RGB on any device, B keys -> B results. Raises ProgramFault where it is not the pictures."""
        return [seen if isinstance(seen, Rejected) else self.finish(seen) for seen in self.see(rgb, keys)]

    def see(self, rgb: Tensor, keys: Sequence[str]) -> list[Undrawn | Rejected]:
        """The part of it for which the device is needed; `finish`, in any thread, does the rest."""
        try:
            most = self._allowance.together(len(keys), *rgb.shape[2:])
        except Rejected as rejected:
            return [rejected] * len(keys)
        return [
            one
            for start in range(0, len(keys), most)
            for one in self._see_some(rgb[start : start + most], keys[start : start + most])
        ]

    def _see_some(self, rgb: Tensor, keys: Sequence[str]) -> list[Undrawn | Rejected]:
        """As many as there is memory for."""
        seen = self._tried(rgb, keys)
        return [
            self._judged(one, partial(self._again, rgb[i : i + 1], keys[i]), rgb.shape[2:], keys[i])
            if isinstance(one, Exception)
            else one
            for i, one in enumerate(seen)
        ]

    def finish(self, undrawn: Undrawn) -> Result:
        """Draw one picture's map, once it was seen."""
        try:
            undrawn.wait()
            return self._draw(undrawn)
        except (Exception, SystemExit) as error:
            return self._judged(error, partial(self._draw, undrawn), undrawn.size, undrawn.key)

    def redraw(self, error: BaseException, rgb: np.ndarray, key: str) -> Result:
        """What comes of a picture on which `draw` raised `error`."""
        return self._judged(error, partial(self.draw, rgb, key), rgb.shape, key)

    def drawn(self, rgb: np.ndarray, key: str) -> Drawn:
        """`draw`, which raises Rejected where the picture is at fault, and another error where it is not."""
        result: Result
        try:
            result = self.draw(rgb, key)
            self.worked(rgb, key)
        except (Exception, SystemExit) as error:
            result = self.redraw(error, rgb, key)
        if isinstance(result, Rejected):
            raise result
        return result

    def worked(self, rgb: np.ndarray, key: str) -> None:
        """Remember a picture that was drawn, to tell later whether a failure is a picture's."""
        if self._control is None and rgb.size <= 3 * CONTROL:
            self._control = rgb.copy(), key

    def _tried(self, rgb: Tensor, keys: Sequence[str]) -> list[Undrawn | Exception]:
        """What was seen, or for single pictures what the annotator raised."""
        try:
            seen: list[Undrawn | Exception] = [*self._see(to_device(rgb, self.annotator.device), keys)]
        except (Exception, SystemExit) as error:
            if is_about_more(error):
                raise as_program_fault(self.annotator.name, error) from error
            if len(keys) == 1 and isinstance(error, Exception):
                return [error.with_traceback(None)]  # whose frames hold memory of the device
        else:
            if self._control is None:
                self.worked(rgb[0].permute(1, 2, 0).cpu().numpy(), keys[0])
            return seen
        half = len(keys) // 2
        return self._tried(rgb[:half], keys[:half]) + self._tried(rgb[half:], keys[half:])

    def _judged(self, error: BaseException, again: Callable[[], T], size: Sequence[int], key: str) -> T | Rejected:
        try:
            return judge(self.annotator.name, error, again, self._controlled(size, key), self._sleep)
        except Rejected as rejected:
            return rejected

    def _again(self, rgb: Tensor, key: str) -> Undrawn:
        (undrawn,) = self._see(to_device(rgb, self.annotator.device), [key])
        return undrawn

    def _controlled(self, size: Sequence[int], key: str) -> Callable[[], Drawn]:
        """Draws a picture on which the annotator has worked, or else should: one of the size (height, width, ...)."""
        known = self._control if self._control and self._control[1] != key else None
        return lambda: self.draw(*(known or (_example(size[0], size[1]), "0" * 64)))

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
        from condprep.annotators.precision import by_itself

        draw: Callable[[Sequence[np.ndarray], Any], Drawn] = _as_it_is
        with self._one, by_itself(self.annotator.device):
            if isinstance(self.annotator, Drawer):
                seen, draw = self.annotator.see(rgb, keys), self.annotator.draw
                if any(len(part) != len(keys) for part in (*seen.tensors, seen.found)):
                    raise AnnotatorError(
                        f"annotator {self.annotator.name!r} saw {[len(part) for part in (*seen.tensors, seen.found)]} things "
                        f"in {len(keys)} pictures; every tensor and `found` must have one for each"
                    )
            else:
                maps = _checked(self.annotator(rgb, keys), self.annotator, rgb)
                rows = [{name: values[i] for name, values in maps.columns.items()} for i in range(len(keys))]
                seen = Seen([maps.maps], rows)
        download = Download(seen.tensors)
        size = (rgb.shape[2], rgb.shape[3])
        return [Undrawn(download, n, found, draw, size, keys[n]) for n, found in enumerate(seen.found)]


@dataclass(frozen=True, slots=True)
class Undrawn:
    """What an annotator has seen in one picture."""

    download: Download
    number: int  # of the picture in its batch
    found: Any
    how: Callable[[Sequence[np.ndarray], Any], Drawn]
    size: tuple[int, int]  # (height, width) of the picture
    key: str

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


def _example(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: a picture that is like none, and has something of everything: light, dark, edges, noise."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 100, width))[..., None]
    return (ramp + rng.integers(0, 36, (height, width, 3))).astype(np.uint8)
